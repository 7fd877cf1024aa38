// @ts-nocheck: this runs in the browser; the project has no DOM types.
//
// Refreshes #live: fetches the page every few seconds while its tab is visible and patches only what changed, so that
// focus, selection, scroll position, input and opened details stay. Without JavaScript the page has a reload link instead.
// And makes the copy buttons work, which are hidden without JavaScript.
const PERIOD_MS = 3000;
const COPIED_MS = 1500; // how long a button says that it has copied

const control = document.querySelector("#live-switch");
let isOn = sessionStorage.getItem("live") !== "off";
let isFetching = false;

// Show an action's notice only once, not again on reload or from the history.
if (document.querySelector("#notice") && location.search.includes("notice=")) {
  const url = new URL(location.href);
  url.searchParams.delete("notice");
  history.replaceState(null, "", url);
}

function show(words, isWorking) {
  const button = document.querySelector("#live-switch");
  button.hidden = false;
  button.setAttribute("aria-pressed", String(isOn));
  button.classList.toggle("stopped", !isWorking);
  const text = button.querySelector(".words");
  if (text.textContent !== words) text.textContent = words;
}

async function refresh() {
  if (!isOn || isFetching || document.visibilityState !== "visible") return;
  isFetching = true;
  try {
    const response = await fetch(location.href, { headers: { accept: "text/html" }, cache: "no-store" });
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const next = page.querySelector("#live");
    if (response.status === 503) throw new Error("Valkey does not answer");
    if (!response.ok || next === null) throw new Error(`The board answers ${response.status}`);
    if (isOn) morph(document.querySelector("#live"), next); // no longer stale
    if (isOn) showAway(page.querySelector("#away"));
    show(isOn ? "Live" : "Stopped", isOn);
  } catch ({ name, message }) {
    document.querySelector("#live").classList.add("stale"); // what is shown may no longer be true: no green tick
    show(`${name === "Error" ? message : "The board does not answer"}, retrying`, false);
  } finally {
    isFetching = false;
  }
}

/** Show which shards are away now, if any. */
function showAway(next) {
  const shown = document.querySelector("#away");
  if (shown?.textContent === next?.textContent) return;
  shown?.remove();
  if (next !== null) document.querySelector("#main").prepend(next);
}

/** Patch a node to match another, with as few changes as possible. */
function morph(node, next) {
  if (node.nodeType === Node.TEXT_NODE) {
    if (node.data !== next.data) node.data = next.data;
    return;
  }
  // Keep the switch, and what the reader selected or opened.
  if (node.nodeType !== Node.ELEMENT_NODE || idOf(node) === "live-switch") return;
  const isOurs = (name) => !(name === "open" && node.nodeName === "DETAILS");
  for (const { name, value } of next.attributes)
    if (isOurs(name) && node.getAttribute(name) !== value) node.setAttribute(name, value);
  for (const { name } of [...node.attributes]) if (isOurs(name) && !next.hasAttribute(name)) node.removeAttribute(name);
  let current = node.firstChild;
  for (const child of [...next.childNodes]) {
    const id = idOf(child);
    const same = id ? [...node.children].find((other) => idOf(other) === id) : isAlike(current, child) ? current : null;
    if (!same) {
      node.insertBefore(document.importNode(child, true), current);
      continue;
    }
    if (same === current) current = current.nextSibling;
    else node.insertBefore(same, current);
    morph(same, child);
  }
  while (current) {
    const after = current.nextSibling;
    current.remove();
    current = after;
  }
}

/** Not its property, which is a form's field where that has one named "id". */
function idOf(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("id") : null;
}

function isAlike(node, next) {
  return node !== null && !idOf(node) && node.nodeType === next.nodeType && node.nodeName === next.nodeName;
}

if (control !== null) {
  control.addEventListener("click", () => {
    isOn = !isOn;
    sessionStorage.setItem("live", isOn ? "on" : "off");
    show(isOn ? "Live" : "Stopped", isOn);
    refresh();
  });
  document.addEventListener("visibilitychange", refresh);
  setInterval(refresh, PERIOD_MS);
  show(isOn ? "Live" : "Stopped", isOn);
}

const said = document.createElement("p"); // read out by screen readers
said.className = "unseen";
said.setAttribute("role", "status");
document.body.append(said);
document.documentElement.classList.add("scripted");

document.addEventListener("click", async ({ target }) => {
  const button = target.closest("[data-copy], [data-copy-from]");
  if (button === null) return;
  const { copy, copyFrom } = button.dataset;
  const isCopied = await putOnClipboard(copy ?? document.getElementById(copyFrom).textContent);
  button.classList.toggle("copied", isCopied);
  said.textContent = isCopied ? "Copied" : "Not copied: the browser does not allow it";
  setTimeout(() => {
    button.classList.remove("copied");
    said.textContent = "";
  }, COPIED_MS);
});

async function putOnClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyFromField(text); // over plain http, browsers have no navigator.clipboard
  }
}

function copyFromField(text) {
  const focused = document.activeElement;
  const field = document.createElement("textarea");
  field.className = "unseen";
  field.value = text;
  document.body.append(field);
  field.select();
  const isCopied = document.execCommand("copy");
  field.remove();
  focused?.focus();
  return isCopied;
}
