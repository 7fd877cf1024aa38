/** The call "this event did not arrive", in a real browser: the search by any id, and the failed events redelivered in bulk. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import type { Browser, Page } from "playwright-core";
import type { Attempt } from "../../src/log/attempts.ts";
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

/** So many events that fail at once. */
async function fail(count: number, userId: string, event = "share.linked"): Promise<string[]> {
  site.receiver.answer({ status: 410 });
  const jobs: string[] = [];
  for (let n = 0; n < count; n++) jobs.push(await site.enqueue(event, userId, "/hooks?key=token-of-the-customer"));
  const states = () => Promise.all(jobs.map((job) => site.queue.getJobState(job)));
  await eventually(states, (all) => all.every((state) => state === "failed"), 30_000, 50);
  return jobs;
}

/** A user's attempts, from the board's API. */
async function attempts(userId: string): Promise<Attempt[]> {
  const headers = { authorization: `Basic ${btoa(`${site.user}:${site.password}`)}` };
  const response = await fetch(`${site.origin}/users/${userId}/attempts`, { headers });
  return ((await response.json()) as { attempts: Attempt[] }).attempts;
}

/** Search from the box in the header of any page. */
async function search(page: Page, text: string): Promise<void> {
  await page.goto("/users/somebody");
  await page.getByRole("search").getByRole("textbox").fill(text);
  await page.keyboard.press("Enter");
}
const widthOf = (page: Page) => page.evaluate<number>("document.documentElement.scrollWidth");

describe("the search on every page", () => {
  test("leads from an event's id, from a delivery's and from a job's to the event on its user's page", async () => {
    const [job] = (await fail(1, "usr_call")) as [string];
    await fail(1, "usr_call", "file.deleted");
    const attempt = (await attempts("usr_call")).find((one) => one.job === job) as Attempt;
    const { page, complaints, close } = await openPage(browser, site);
    for (const [text, found] of [
      [`webhook-id: ${attempt.id}`, `Found event ${attempt.id}.`],
      [attempt.delivery, `Found delivery ${attempt.delivery} of event ${attempt.id}.`],
      [job, `Found the job of event ${attempt.id}.`],
    ] as const) {
      await search(page, text);
      await page.getByRole("status").getByText(found).waitFor();
      expect(await page.getByRole("heading", { level: 1 }).textContent()).toContain("usr_call");
      expect(await page.locator(".delivery").count()).toBe(1);
      await page.locator(".delivery", { hasText: "share.linked" }).waitFor();
    }
    expect(complaints).toEqual([]);
    await close();
  });

  test("leads from a host to its failed events, and says what it does not find", async () => {
    await fail(2, "usr_host");
    const { page, complaints, close } = await openPage(browser, site);
    await search(page, `127.0.0.1:${site.receiver.port}`);
    await page.getByRole("link", { name: /^\d+ failed$/ }).click();
    await page.getByRole("heading", { level: 1, name: "Failed events" }).waitFor();
    expect(await page.locator(".failed li").count()).toBeGreaterThanOrEqual(2);
    await search(page, crypto.randomUUID());
    await page.getByText("Nothing found for").waitFor();
    await page.getByText(/Searched [\d,]+ kept jobs? and [\d,]+ logs?\./).waitFor();
    expect(complaints).toEqual([]);
    await close();
  });
});

describe("failed events", () => {
  test.each([true, false])("are redelivered in bulk after a dry run (JavaScript: %p)", async (javaScriptEnabled) => {
    const userId = `usr_bulk_${javaScriptEnabled}`;
    await fail(12, userId);
    await fail(1, "usr_left");
    const { page, complaints, close } = await openPage(browser, site, { javaScriptEnabled });
    await page.goto("/");
    await page
      .getByRole("link", { name: /^Failed/ })
      .first()
      .click();
    await page.getByRole("link", { name: userId, exact: true }).first().click();
    await page.getByRole("button", { name: "Redeliver all 12 events…" }).click();
    await page.getByRole("heading", { name: "12 events would be redelivered, to 1 host" }).waitFor();
    expect(await page.content()).not.toContain("token-of-the-customer");
    expect((await attempts(userId)).some(({ success }) => success)).toBe(false);
    site.receiver.answer({ status: 200 });
    await page.getByRole("button", { name: "Redeliver 12 events" }).click();
    await page.getByRole("heading", { level: 1, name: "Redelivery" }).waitFor();
    for (let reloads = 0; !javaScriptEnabled && reloads < 50; reloads++) {
      if ((await page.locator(".run .verdict").textContent())?.includes("Redelivered")) break;
      await page.getByRole("link", { name: "Reload" }).click();
    }
    await page.locator(".run .verdict").getByText("Redelivered: 12 of 12 events.").waitFor();
    await eventually(
      () => attempts(userId),
      (all) => all.every(({ success }) => success), // the log keeps the last 10
      30_000,
      50,
    );
    await page.goto(`/failed?user=${userId}`);
    await page.getByText("No failed event matches.").waitFor();
    await page.goto("/failed?user=usr_left");
    expect(await page.locator(".failed li").count()).toBeGreaterThan(0);
    expect(complaints).toEqual([]);
    await close();
  });

  test("go again one by one when they are selected", async () => {
    const [first, second] = (await fail(2, "usr_select")) as [string, string];
    const { page, complaints, close } = await openPage(browser, site);
    await page.goto("/failed?user=usr_select");
    site.receiver.answer({ status: 200 });
    await page.getByLabel(`Select share.linked, job ${second}`).check();
    await page.getByRole("button", { name: "Redeliver selected…" }).click();
    await page.getByRole("button", { name: "Redeliver 1 event" }).click();
    await page.locator(".run .verdict").getByText("Redelivered: 1 of 1 event.").waitFor();
    await site.attempted(second, 2);
    expect(await site.queue.getJobState(first)).toBe("failed");
    expect(complaints).toEqual([]);
    await close();
  });
});

test.each([320, 360, 768])("the search and the failed events do not scroll sideways at %d px", async (width) => {
  const long = "a".repeat(100);
  await fail(1, `usr_${long}`, "org.permissionChanged");
  const { page, complaints, close } = await openPage(browser, site, { viewport: { width, height: 700 } });
  for (const path of [
    "/search",
    `/search?q=${long}`,
    `/search?q=127.0.0.1:${site.receiver.port}`,
    "/failed",
    `/failed?user=usr_${long}&host=127.0.0.1:${site.receiver.port}&last=24h&from=2020-01-01T00:00`,
    `/failed?user=${long}`,
    "/failed/redeliver?of=all",
    "/failed/runs/nowhere",
  ]) {
    await page.goto(path);
    expect([path, await widthOf(page)]).toEqual([path, width]);
  }
  expect(complaints).toEqual([]);
  await close();
});
