// @ts-nocheck: this one runs in the browser, whose types are not the program's.
//
// Keeps #live fresh: asks for the page again every few seconds while its tab is seen, and changes what has changed, so
// that focus, selection, scroll and opened details stay. Without it the page stands still and has a link to reload.
const PERIOD_MS = 3000;

const control = document.querySelector("#live-switch");
let isOn = sessionStorage.getItem("live") !== "off";
let isAsking = false;

// What an action said is said once: a reload, or the page out of the history, does not say it again.
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
  if (!isOn || isAsking || document.visibilityState !== "visible") return;
  isAsking = true;
  try {
    const response = await fetch(location.href, { headers: { accept: "text/html" }, cache: "no-store" });
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const next = page.querySelector("#live");
    if (!response.ok || next === null) throw new Error(`answered ${response.status}`);
    if (isOn) morph(document.querySelector("#live"), next);
    show(isOn ? "Live" : "Stopped", isOn);
  } catch {
    show("No answer, trying again", false);
  } finally {
    isAsking = false;
  }
}

/** Make one node like another, with as few changes as possible. */
function morph(node, next) {
  if (node.nodeType === Node.TEXT_NODE) {
    if (node.data !== next.data) node.data = next.data;
    return;
  }
  // The switch is ours, and what is chosen or opened is the reader's.
  if (node.nodeType !== Node.ELEMENT_NODE || node.id === "live-switch") return;
  for (const { name, value } of next.attributes) if (node.getAttribute(name) !== value) node.setAttribute(name, value);
  for (const { name } of [...node.attributes])
    if (name !== "open" && !next.hasAttribute(name)) node.removeAttribute(name);
  let place = node.firstChild;
  for (const child of [...next.childNodes]) {
    const same = child.id ? [...node.children].find(({ id }) => id === child.id) : isAlike(place, child) ? place : null;
    if (!same) {
      node.insertBefore(document.importNode(child, true), place);
      continue;
    }
    if (same === place) place = place.nextSibling;
    else node.insertBefore(same, place);
    morph(same, child);
  }
  while (place) {
    const after = place.nextSibling;
    place.remove();
    place = after;
  }
}

function isAlike(node, next) {
  return node !== null && !node.id && node.nodeType === next.nodeType && node.nodeName === next.nodeName;
}

control.addEventListener("click", () => {
  isOn = !isOn;
  sessionStorage.setItem("live", isOn ? "on" : "off");
  show(isOn ? "Live" : "Stopped", isOn);
  refresh();
});
document.addEventListener("visibilitychange", refresh);
setInterval(refresh, PERIOD_MS);
show(isOn ? "Live" : "Stopped", isOn);
