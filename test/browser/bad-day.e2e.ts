/** The pages when things go wrong: Valkey away, no JavaScript, actions that are refused. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import type { Browser, Page } from "playwright-core";
import { openPage, startChromium } from "./chromium.ts";
import { type Site, startSite } from "./site.ts";

setDefaultTimeout(120_000);
let site: Site;
let locked: Site;
let browser: Browser;
beforeAll(async () => {
  [site, locked, browser] = await Promise.all([startSite(), startSite({ BOARD_READONLY: "1" }), startChromium()]);
  await Promise.all([site, locked].map(prepare));
});
afterAll(async () => {
  await browser?.close();
  await Promise.all([site?.stop(), locked?.stop()]);
});

/** A job of each state that Bull Board has actions for. */
async function prepare({ receiver, queue, enqueue, attempted }: Site): Promise<void> {
  receiver.answer(({ path }) => ({ status: path === "/fine" ? 204 : 410 }));
  const jobs = await Promise.all([
    enqueue("file.created", "usr_1", "/fine"),
    enqueue("file.created", "usr_1", "/gone"),
  ]);
  await Promise.all(jobs.map((job) => attempted(job, 1)));
  const data = { userId: "usr_1", endpoint: { url: receiver.url("/fine"), secret: "s" }, data: {} };
  await queue.add("file.created", data, { delay: 3_600_000 });
  await queue.pause();
  await queue.addBulk([
    { name: "file.created", data },
    { name: "file.created", data, opts: { priority: 9 } },
  ]);
}

/** Something of each visible element. */
const read = (page: Page, selector: string, what: string) =>
  page.evaluate<string[]>(
    `[...document.querySelectorAll(${JSON.stringify(selector)})].filter((e) => e.checkVisibility()).map((e) => ${what})`,
  );
/** Buttons of a job have no names: their icons' names. */
const ICON = "/lucide-([a-z-]+)/.exec(e.innerHTML)[1]";

/** What Bull Board offers on its pages of the queue, by state. */
async function readOffers(at: Site): Promise<Record<string, string[]>> {
  const { page, close } = await openPage(browser, at);
  const offers: Record<string, string[]> = {};
  for (const state of ["waiting", "prioritized", "completed", "failed", "delayed"]) {
    await page.goto(`/board/queue/webhooks?status=${state}`);
    await page.locator("[class*=card-]").getByText("usr_1").first().waitFor();
    offers[state] = [
      ...(await read(page, "[class*=queueActions-] button", "e.textContent")),
      ...(await read(page, "[class*=jobActions-] button", ICON)),
    ];
  }
  const menu = page.locator("[class*=statusBar-] ~ * [class*=trigger-], [class*=trigger-]").first();
  if (await menu.isVisible()) {
    await menu.click();
    await page.getByRole("menuitem").first().waitFor();
    offers.menu = await read(page, "[role=menuitem]", "e.textContent");
  }
  await close();
  return offers;
}

describe("Bull Board", () => {
  test("offers what is allowed, and nothing else", async () => {
    expect(await readOffers(site)).toEqual({
      waiting: ["trash"],
      prioritized: ["trash"],
      completed: ["Retry all", "Clean all", "refresh-cw", "trash"],
      failed: ["Retry all", "Clean all", "refresh-cw", "trash"],
      delayed: ["Promote all", "corner-up-left", "trash"],
      menu: ["Retry all 1 failed jobs", "Resume"],
    });
  });

  test("offers nothing on a board that is read-only", async () => {
    const none = { waiting: [], prioritized: [], completed: [], failed: [], delayed: [] };
    expect(await readOffers(locked)).toEqual(none);
  });

  test("says that it needs JavaScript where there is none", async () => {
    const { page, close } = await openPage(browser, site, { javaScriptEnabled: false });
    await page.goto("/board");
    expect(await page.locator(".no-script").textContent()).toContain("needs JavaScript");
    expect(await page.locator(".no-script").isVisible()).toBe(true);
    expect(await page.getByText("Loading").isVisible()).toBe(false);
    await page.getByRole("link", { name: "The overview" }).click();
    await page.getByText("Finished in the last 30 minutes").waitFor();
    await close();
  });
});

test("while Valkey is away no page shows that all is well, and each says why", async () => {
  const away = await startSite();
  const [home, board, late] = await Promise.all([1, 2, 3].map(() => openPage(browser, away)));
  if (home === undefined || board === undefined || late === undefined) throw new Error("unreachable");
  await Promise.all([home.page.goto("/"), board.page.goto("/board/queue/webhooks", { waitUntil: "networkidle" })]);
  await home.page.locator(".verdict.good").waitFor();
  away.valkey.pause();
  await home.page.getByRole("button", { name: "Valkey does not answer, retrying" }).waitFor();
  expect(await home.page.locator(".verdict").isVisible()).toBe(false);
  await board.page.getByText("Valkey does not answer").first().waitFor();
  for (const path of ["/", "/users/usr_1", "/failed", "/search?q=usr_1", "/board", "/board/queue/webhooks"]) {
    expect((await late.page.goto(path))?.status(), path).toBe(503);
    await late.page.getByRole("heading", { name: "Valkey does not answer" }).waitFor();
  }
  away.valkey.resume();
  await home.page.locator(".verdict.good").waitFor(); // by itself
  await Promise.all([home, board, late].map(({ close }) => close()));
  await away.stop();
});

test("while every endpoint fails and all events are retried later, the overview is not green", async () => {
  const failing = await startSite({ WEBHOOK_RETRY_DELAYS: "1h", WEBHOOK_ENDPOINT_CONCURRENCY: "50" });
  failing.receiver.answer({ status: 503 });
  const { page, close } = await openPage(browser, failing);
  await page.goto("/");
  await page.locator(".verdict.good").waitFor();
  for (let user = 0; user < 40; user++) await failing.enqueue("file.created", crypto.randomUUID(), `/${user}`);
  await page.locator(".verdict.bad").getByText("100% of attempts failed in the last 5 minutes").waitFor();
  expect(await failing.queue.getFailedCount()).toBe(0);
  await close();
  await failing.stop();
});
