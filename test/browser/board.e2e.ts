/** The board in a real browser, from the log-in to the delivered event. `npm run test:browser` runs it, `npm test` does not. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import type { Browser, Locator, Page } from "playwright-core";
import { eventually } from "../support/stack.ts";
import { openPage, startChromium } from "./chromium.ts";
import { type Site, startSite } from "./site.ts";

setDefaultTimeout(60_000);
const TOO_LONG = "a".repeat(60);
let site: Site;
let browser: Browser;

beforeAll(async () => {
  [site, browser] = await Promise.all([startSite(), startChromium()]);
});
afterAll(async () => {
  await browser?.close();
  await site?.stop();
});

/** Two events that the receiver answers with 503, both attempts of each, and one that it takes. */
async function prepare(userId: string): Promise<{ first: string; second: string }> {
  site.receiver.answer(({ path }) => ({ status: path.startsWith("/fine") ? 204 : 503 }));
  const first = await site.enqueue("share.linked", userId, "/hooks?key=token-of-the-customer");
  const second = await site.enqueue("file.deleted", userId, "/hooks");
  const fine = await site.enqueue("file.created", userId, "/fine");
  await Promise.all([site.attempted(first, 2), site.attempted(second, 2), site.attempted(fine, 1)]);
  // An attempt is logged before its job is acknowledged.
  const states = () => Promise.all([first, second].map((job) => site.queue.getJobState(job)));
  await eventually(states, (all) => all.every((state) => state === "failed"), 30_000);
  return { first, second };
}

const cardOf = (page: Page, event: string): Locator => page.locator(".delivery", { hasText: event });
const search = async (page: Page, userId: string): Promise<void> => {
  await page.goto("/");
  await page.getByLabel("Look up a user").fill(userId);
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { level: 1, name: userId }).waitFor();
};
const widthOf = (page: Page) => page.evaluate<number>("document.documentElement.scrollWidth");
const focusedId = (page: Page) => page.evaluate<string>("document.activeElement.id");

test("an operator logs in, finds a failed event, reads why, redelivers it, and retries another in Bull Board", async () => {
  const { second } = await prepare("usr_journey");
  const stranger = await openPage(browser, { ...site, password: "wrong" });
  expect((await stranger.page.goto("/users/usr_journey"))?.status()).toBe(401);
  await stranger.close();

  const { page, complaints, close } = await openPage(browser, site);
  await search(page, "usr_journey");
  expect(page.url()).toBe(`${site.origin}/users/usr_journey`);
  const card = cardOf(page, "share.linked");
  await card.getByText("Service unavailable.").first().waitFor();
  expect(await card.textContent()).toContain("check its load and health");
  expect(await card.textContent()).toContain("Failed");
  expect(await page.content()).not.toContain("token-of-the-customer");

  site.receiver.answer({ status: 200 });
  await card.getByRole("button", { name: "Redeliver" }).click();
  await page.getByRole("status").getByText("Queued").waitFor();
  await card.locator(".state").getByText("Delivered").waitFor(); // without a reload
  expect(await card.locator(".attempt").count()).toBe(3);

  const other = cardOf(page, "file.deleted");
  await other.getByRole("link", { name: `job ${second}` }).click();
  await page.waitForURL(`**/board/queue/webhooks/${second}`);
  await page.getByText("no attempts left").waitFor();
  const retried = page.waitForResponse((response) => response.url().endsWith(`/${second}/retry`));
  const retry = page.locator("[data-base-ui-tooltip-trigger] button").first(); // buttons without a name, but with a tooltip
  await retry.hover();
  await page.getByText("Retry", { exact: true }).waitFor();
  await retry.click();
  await page.getByRole("button", { name: "Confirm" }).click();
  expect((await retried).status()).toBe(204);
  await site.attempted(second, 3);
  await search(page, "usr_journey");
  await other.locator(".state").getByText("Delivered").waitFor();
  expect(complaints).toEqual([]);
  await close();
});

describe("the pages", () => {
  test("work without JavaScript", async () => {
    await prepare("usr_plain");
    const { page, complaints, close } = await openPage(browser, site, { javaScriptEnabled: false });
    await search(page, "usr_plain");
    site.receiver.answer({ status: 200 });
    await cardOf(page, "share.linked").getByRole("button", { name: "Redeliver" }).click();
    await page.getByRole("status").getByText("Queued").waitFor();
    expect(await page.getByRole("button", { name: "Live", exact: true }).isVisible()).toBe(false);
    for (let reloads = 0; reloads < 50; reloads++) {
      if ((await cardOf(page, "share.linked").locator(".state").textContent())?.includes("Delivered")) break;
      await page.getByRole("link", { name: "Reload" }).click();
    }
    expect(await cardOf(page, "share.linked").locator(".state").textContent()).toContain("Delivered");
    expect(complaints).toEqual([]);
    await close();
  });

  test("send a test event, and say before what it is", async () => {
    await prepare("usr_tested");
    const { page, complaints, close } = await openPage(browser, site);
    await search(page, "usr_tested");
    await page.getByText("Send a test event").click();
    expect(await page.locator(".test pre").textContent()).toContain('"test": true');
    await page
      .locator(".test")
      .getByLabel("Endpoint")
      .selectOption({ label: site.receiver.url("/fine") });
    await page.getByRole("button", { name: "Send", exact: true }).click();
    await page.getByRole("status").getByText("Test event queued").waitFor();
    await page.locator(".delivery").nth(3).waitFor(); // it shows up by itself
    expect(await page.locator(".delivery").count()).toBe(4);
    expect(site.receiver.requests.at(-1)?.json).toMatchObject({ event: "file.created", data: { test: true } });
    expect(complaints).toEqual([]);
    await close();
  });

  test.each([320, 360, 768])("do not scroll sideways at %d px", async (width) => {
    const userId = `usr_${TOO_LONG}`;
    const job = await site.enqueue("org.permissionChanged", userId, `/${TOO_LONG}/${TOO_LONG}`);
    await site.attempted(job, 1);
    const { page, complaints, close } = await openPage(browser, site, { viewport: { width, height: 700 } });
    for (const path of ["/", `/users/${userId}`, "/users/nobody", `/users?id=${encodeURIComponent("a b")}`]) {
      await page.goto(path);
      if (path.endsWith(userId)) await page.getByText("Send a test event").click();
      expect(await widthOf(page), path).toBe(width);
    }
    expect(complaints.filter((complaint) => !complaint.includes("400"))).toEqual([]);
    await close();
  });

  test("can be used from the keyboard alone", async () => {
    await prepare("usr_keys");
    const { page, close } = await openPage(browser, site);
    await page.goto("/users/usr_keys");
    await page.keyboard.press("Tab");
    const skip = page.getByRole("link", { name: "Skip to content" });
    expect((await skip.boundingBox())?.y).toBeGreaterThanOrEqual(0); // it shows up once it is focused
    await page.keyboard.press("Enter");
    expect(await focusedId(page)).toBe("main");
    const button = cardOf(page, "share.linked").getByRole("button", { name: "Redeliver" });
    const target = await button.getAttribute("id");
    for (let tabs = 0; tabs < 40 && (await focusedId(page)) !== target; tabs++) await page.keyboard.press("Tab");
    expect(await focusedId(page)).toBe(target as string);
    expect(await page.evaluate<string>("getComputedStyle(document.activeElement).outlineStyle")).toBe("solid");
    site.receiver.answer({ status: 200 });
    await page.keyboard.press("Enter");
    await page.getByRole("status").getByText("Queued").waitFor();
    await close();
  });

  test("are light or dark as the reader's system is", async () => {
    const grounds: number[] = [];
    for (const colorScheme of ["light", "dark"] as const) {
      const { page, close } = await openPage(browser, site, { colorScheme });
      await page.goto("/");
      const colour = await page.evaluate<string>("getComputedStyle(document.body).backgroundColor");
      grounds.push(Number(/\d+/.exec(colour)?.[0]));
      await close();
    }
    expect(grounds[0]).toBeGreaterThan(200);
    expect(grounds[1]).toBeLessThan(50);
  });
});

test("the overview names the host of an open circuit, and the latest failures", async () => {
  site.receiver.answer("reset");
  for (let events = 0; events < 5; events++) await site.enqueue("file.created", "usr_silent", "/silent");
  const { page, complaints, close } = await openPage(browser, site);
  await page.goto("/");
  await page.locator(".hosts code").getByText(`127.0.0.1:${site.receiver.port}`).waitFor();
  await page.locator(".failures").getByRole("link", { name: "usr_silent" }).first().click();
  await page.getByText("Connection closed before a response.").first().waitFor();
  expect(complaints).toEqual([]);
  await close();
});

describe("while a page is seen", () => {
  test("it stays fresh, and leaves focus and opened details alone", async () => {
    await prepare("usr_fresh");
    const { page, complaints, close } = await openPage(browser, site);
    await page.goto("/users/usr_fresh");
    await page.getByText("Send a test event").click();
    const button = cardOf(page, "file.deleted").getByRole("button", { name: "Redeliver" });
    await button.focus();
    const id = await focusedId(page);
    const job = await site.enqueue("storage.exceeded", "usr_fresh", "/fine");
    await site.attempted(job, 1);
    await cardOf(page, "storage.exceeded").waitFor();
    expect(await focusedId(page)).toBe(id);
    expect(await page.locator(".test pre").isVisible()).toBe(true);
    expect(complaints).toEqual([]);
    await close();
  });

  test("it asks no more when it is told to stop, and goes on when told to", async () => {
    const { page, close } = await openPage(browser, site);
    await page.clock.install();
    await page.goto("/users/usr_quiet");
    let asked = 0;
    page.on("request", (request) => {
      if (request.resourceType() === "fetch") asked += 1;
    });
    await page.getByRole("button", { name: "Live", exact: true }).click();
    await page.getByRole("button", { name: "Stopped" }).waitFor();
    await page.clock.runFor(30_000);
    expect(asked).toBe(0);
    await page.getByRole("button", { name: "Stopped" }).click();
    await page.getByRole("button", { name: "Live", exact: true }).waitFor();
    const response = page.waitForResponse("**/users/usr_quiet");
    await page.clock.runFor(4_000);
    expect((await response).status()).toBe(200);
    await close();
  });
});

test("Bull Board runs without another host, in a font that is there", async () => {
  const { first } = await prepare("usr_bull");
  const { page, complaints, close } = await openPage(browser, site);
  for (const [path, words] of [
    ["/board", "webhooks"],
    ["/board/queue/webhooks?status=failed", "share.linked"],
    [`/board/queue/webhooks/${first}`, "no attempts left"],
  ] as const) {
    await page.goto(path, { waitUntil: "networkidle" });
    await page.getByText(words).first().waitFor();
  }
  expect(await page.evaluate<string>("getComputedStyle(document.body).fontFamily")).toContain("Liberation Sans");
  expect(complaints).toEqual([]);
  await close();
});
