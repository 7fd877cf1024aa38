/** A user's page in a real browser: payload, response, filters, copying, what is pending. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import type { Browser, Locator, Page } from "playwright-core";
import { eventually } from "../support/stack.ts";
import { openPage, startChromium } from "./chromium.ts";
import { type Site, startSite } from "./site.ts";

setDefaultTimeout(60_000);
let site: Site;
let browser: Browser;

beforeAll(async () => {
  [site, browser] = await Promise.all([startSite(), startChromium()]);
});
afterAll(async () => {
  await browser?.close();
  await site?.stop();
});

const ANSWER = "<h1>Down</h1><script>document.title='run'</script>\n\u202eback soon";
const cardOf = (page: Page, event: string): Locator => page.locator(".delivery", { hasText: event });

/** A failed event, whose endpoint sends a page, and a delivered one. */
async function prepare(userId: string): Promise<{ failed: string; fine: string }> {
  site.receiver.answer(({ path }) =>
    path.startsWith("/fine")
      ? { status: 204 }
      : { status: 503, headers: { "content-type": "text/html" }, body: ANSWER },
  );
  const failed = await site.enqueue("share.linked", userId, "/hooks?key=token-of-the-customer", { name: "<b>&</b>" });
  const fine = await site.enqueue("file.created", userId, "/fine");
  await Promise.all([site.attempted(failed, 2), site.attempted(fine, 1)]);
  await eventually(
    () => site.queue.getJobState(failed),
    (state) => state === "failed",
    30_000,
  );
  return { failed, fine };
}

test("an operator reads the response of a failed attempt as text, and the payload as it was sent", async () => {
  const { failed } = await prepare("usr_support");
  const sent = site.receiver.requests.find(({ path }) => path.startsWith("/hooks"))?.body.toString();
  const { page, complaints, close } = await openPage(browser, site);
  await page.goto("/users/usr_support");
  const card = cardOf(page, "share.linked");
  await card.getByText("Response", { exact: true }).first().click();
  const response = card.locator(".response pre").first();
  expect(await response.textContent()).toContain("HTTP/1.1 503 Service Unavailable\n");
  expect(await response.textContent()).toContain("<h1>Down</h1><script>");
  expect(await response.textContent()).toContain("\\u202eback soon");
  expect(await page.title()).not.toBe("run");

  await card.getByRole("link", { name: "Payload" }).click();
  await page.getByRole("heading", { level: 1, name: "share.linked" }).waitFor();
  expect(new URL(page.url()).pathname).toBe(`/users/usr_support/events/${failed}`);
  expect(await page.locator("#body").textContent()).toBe(sent as string);
  expect(await page.content()).not.toContain("token-of-the-customer");
  await page.getByRole("link", { name: "← usr_support" }).click();
  await card.waitFor();
  expect(complaints).toEqual([]);
  await close();
});

describe("copy buttons", () => {
  test("put ids, endpoints and texts on the clipboard, and say so", async () => {
    const { failed } = await prepare("usr_copied");
    const { page, complaints, close } = await openPage(browser, site, {
      permissions: ["clipboard-read", "clipboard-write"],
    });
    await page.goto("/users/usr_copied");
    const card = cardOf(page, "share.linked");
    const copied = async (name: string): Promise<string> => {
      await card.getByRole("button", { name, exact: true }).first().click();
      await page.getByRole("status").getByText("Copied", { exact: true }).waitFor();
      return await page.evaluate<string>("navigator.clipboard.readText()");
    };
    expect(await copied("Copy job ID")).toBe(failed);
    expect(await copied("Copy event ID")).toBe((await card.locator(".ids code").textContent()) as string);
    expect(await copied("Copy delivery ID")).toBe((await card.locator(".trace code").first().textContent()) as string);
    expect(await copied("Copy endpoint")).toBe(site.receiver.url("/hooks"));
    await card.getByText("Response", { exact: true }).first().click();
    expect(await copied("Copy response")).toBe((await card.locator(".response pre").first().textContent()) as string);
    expect(complaints).toEqual([]);
    await close();
  });

  test("work where the browser has no clipboard for scripts, as over plain http", async () => {
    const { failed } = await prepare("usr_plain_http");
    const { page, close } = await openPage(browser, site, { permissions: ["clipboard-read", "clipboard-write"] });
    await page.goto("/users/usr_plain_http");
    await page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined, configurable: true })");
    const button = cardOf(page, "share.linked").getByRole("button", { name: "Copy job ID", exact: true });
    await button.focus();
    await page.keyboard.press("Enter");
    await page.getByRole("status").getByText("Copied", { exact: true }).waitFor();
    expect(await page.evaluate<string>("document.activeElement.title")).toBe("Copy job ID");
    await page.evaluate("delete navigator.clipboard");
    expect(await page.evaluate<string>("navigator.clipboard.readText()")).toBe(failed);
    await close();
  });

  test("are hidden without JavaScript", async () => {
    await prepare("usr_scriptless");
    const { page, close } = await openPage(browser, site, { javaScriptEnabled: false });
    await page.goto("/users/usr_scriptless");
    expect(await page.locator(".copy").count()).toBeGreaterThan(4);
    expect(await page.locator(".copy:visible").count()).toBe(0);
    await close();
  });
});

describe("the filter", () => {
  test.each([true, false])("narrows the page and can be cleared, JavaScript: %p", async (javaScriptEnabled) => {
    const userId = `usr_filter_${javaScriptEnabled}`;
    await prepare(userId);
    const { page, complaints, close } = await openPage(browser, site, { javaScriptEnabled });
    await page.goto(`/users/${userId}`);
    await page.getByText("Filter", { exact: true }).click();
    await page.getByLabel("Outcome").selectOption("failed");
    await page.getByRole("button", { name: "Apply" }).click();
    await page.getByText("Showing 1 of 2 events").waitFor();
    expect(await page.locator(".delivery h2").allTextContents()).toEqual(["share.linked"]);
    await page.getByRole("link", { name: "Clear the filter" }).click();
    await cardOf(page, "file.created").waitFor();
    expect(await page.locator(".delivery").count()).toBe(2);
    expect(complaints).toEqual([]);
    await close();
  });

  test("stays while the page is refreshed, and so does what is being typed and opened", async () => {
    await prepare("usr_typing");
    const { page, complaints, close } = await openPage(browser, site);
    await page.goto("/users/usr_typing?event=file.created");
    await page.getByLabel("Event ID").fill("half an i");
    await page.locator("#test summary").click();
    const job = await site.enqueue("file.created", "usr_typing", "/fine?again");
    await site.attempted(job, 1);
    const other = await site.enqueue("file.deleted", "usr_typing", "/fine");
    await site.attempted(other, 1);
    await page.getByText("Showing 2 of 4 events").waitFor();
    expect(await page.getByLabel("Event ID").inputValue()).toBe("half an i");
    expect(await page.locator(".test pre").isVisible()).toBe(true);
    await page.getByText("Filter", { exact: true }).click(); // closed by the reader, it stays so
    const refreshed = () => page.waitForResponse((response) => response.url().includes("/users/usr_typing"));
    await refreshed();
    await refreshed();
    expect(await page.getByLabel("Event ID").isVisible()).toBe(false);
    expect(complaints).toEqual([]);
    await close();
  });
});

test("an event that waits is seen, and goes when it is delivered at once", async () => {
  await prepare("usr_pending");
  const endpoint = { url: site.receiver.url("/fine"), secret: "the customer's secret" };
  const data = { userId: "usr_pending", endpoint, data: { path: "/later.txt" } };
  await site.queue.add("org.updated", data, { delay: 3_600_000 });
  const { page, complaints, close } = await openPage(browser, site);
  await page.goto("/users/usr_pending");
  const pending = page.locator("#pending");
  await pending.getByRole("heading", { name: "1 pending" }).waitFor();
  await pending.getByText("Due in 59 min").waitFor();
  await pending.getByRole("button", { name: "Deliver now" }).click();
  await page.getByRole("status").getByText("Queued").waitFor();
  await cardOf(page, "org.updated").locator(".state").getByText("Delivered").waitFor();
  await pending.waitFor({ state: "detached" });
  expect(complaints).toEqual([]);
  await close();
});

test.each([320, 360, 768])("pages of long names do not scroll sideways at %d px", async (width) => {
  const userId = crypto.randomUUID();
  const long = "a".repeat(60);
  const job = await site.enqueue("org.permissionChanged", userId, `/${long}/${long}/${long}`, { name: long.repeat(5) });
  await site.attempted(job, 1);
  const endpoint = { url: `https://${long}.${long}.example/${long}`, secret: "s" };
  await site.queue.add("org.permissionChanged", { userId, endpoint, data: {} }, { delay: 3_600_000 });
  const { page, close } = await openPage(browser, site, { viewport: { width, height: 700 } });
  for (const path of [`/users/${userId}?id=${long}${long}`, `/users/${userId}`, `/users/${userId}/events/${job}`]) {
    await page.goto(path);
    for (const summary of await page.locator("summary").all()) {
      if (!(await summary.evaluate("(node) => node.parentElement.open"))) await summary.click();
    }
    expect(await page.evaluate<number>("document.documentElement.scrollWidth"), path).toBe(width);
  }
  await close();
});
