/** Every page of ours, checked by axe-core: light and dark, on a desktop and on a phone. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { Redis } from "ioredis";
import type { Browser, Page } from "playwright-core";
import { hold } from "../../src/operations/hold.ts";
import { eventually } from "../support/stack.ts";
import { openPage, startChromium } from "./chromium.ts";
import { type Site, startSite } from "./site.ts";

setDefaultTimeout(120_000);
const AXE = readFileSync(Bun.resolveSync("axe-core/axe.min.js", import.meta.dir), "utf8");
const USER = "0b9c6f6e-9b8e-4f6e-8f43-5e3a3f0c7a11";
let site: Site;
let quiet: Site; // no jobs, read-only, labeled
let browser: Browser;

beforeAll(async () => {
  [site, quiet, browser] = await Promise.all([
    startSite(),
    startSite({ BOARD_READONLY: "1", BOARD_ENVIRONMENT: "staging" }),
    startChromium(),
  ]);
  await prepare();
});
afterAll(async () => {
  await browser?.close();
  await Promise.all([site?.stop(), quiet?.stop()]);
});

/** Events that were delivered, failed at once, failed after retries, wait for a retry; an open circuit; a broken contract; a hold. */
async function prepare(): Promise<void> {
  const { receiver, queue, enqueue, attempted } = site;
  receiver.answer(({ path }) => {
    if (path === "/dead") return "reset";
    const status = path === "/fine" ? 204 : path === "/gone" ? 410 : 503;
    return path === "/later" ? { status, headers: { "retry-after": "600" } } : { status };
  });
  const jobs = await Promise.all([
    enqueue("file.created", USER, "/fine"),
    enqueue("share.linked", USER, "/gone"),
    enqueue("org.permissionChanged", USER, "/busy"),
    enqueue("file.deleted", USER, "/later"),
    ...[1, 2, 3, 4, 5].map(() => enqueue("file.downloaded", "usr_dead", "/dead")),
  ]);
  await queue.add("no.contract", {});
  await Promise.all(jobs.slice(0, 4).map((job) => attempted(job, 1)));
  await eventually(
    () => queue.getFailedCount(),
    (count) => count >= 3,
    30_000,
  );
  const valkey = new Redis(site.valkey.url);
  const details = { until: Date.now() + 3_600_000, reason: "they asked us to wait", by: "ops" };
  await hold([{ valkey, queue: queue.name }], { kind: "user", target: USER }, details, Date.now());
  valkey.disconnect();
}

/** What axe-core objects to, as `rule: element`. */
async function check(page: Page): Promise<string[]> {
  await page.evaluate(AXE);
  return await page.evaluate<string[]>(`axe
    .run(document, { resultTypes: ["violations"] })
    .then(({ violations }) => violations.flatMap(({ id, nodes }) =>
      nodes.map(({ html, any }) => id + ": " + html.slice(0, 160) + " " + any.map(({ message }) => message).join("; "))))`);
}

const PAGES: [name: string, at: () => Site, path: () => string | Promise<string>, status?: number][] = [
  ["the overview", () => site, () => "/"],
  ["an overview with nothing", () => quiet, () => "/"],
  ["a user's page", () => site, () => `/users/${USER}`],
  ["a user's page with nothing", () => site, () => "/users/nobody"],
  ["an event's payload", () => site, () => payloadPath()],
  ["a wrong user id", () => site, () => "/users?id=a%20b", 400],
  ["the failed events", () => site, () => "/failed"],
  ["no failed events", () => quiet, () => "/failed"],
  ["the dry run of a bulk redelivery", () => site, () => "/failed/redeliver?of=all"],
  ["a dry run of nothing", () => site, () => "/failed/redeliver"],
  ["a search that finds", () => site, () => `/search?q=127.0.0.1:${site.receiver.port}`],
  ["a search that finds nothing", () => site, () => "/search?q=0b9c6f6e-0000-4f6e-8f43-5e3a3f0c7a11"],
  ["a page that is not there", () => site, () => "/nowhere", 404],
];

/** Where a user's page leads to the payload of an event. */
async function payloadPath(): Promise<string> {
  const { page, close } = await openPage(browser, site);
  await page.goto(`/users/${USER}`);
  const path = await page.locator('a[href*="/events/"]').first().getAttribute("href");
  await close();
  return path as string;
}

const LOOKS = [
  { colorScheme: "light", viewport: { width: 1280, height: 900 } },
  { colorScheme: "dark", viewport: { width: 360, height: 740 } },
  { colorScheme: "dark", viewport: { width: 768, height: 900 } },
] as const;

describe.each(LOOKS)("$colorScheme, $viewport.width px wide:", (look) => {
  test.each(PAGES)("%s has no violations, and does not scroll sideways", async (name, at, pathOf, status = 200) => {
    const path = await pathOf();
    const { page, close } = await openPage(browser, at(), look);
    expect([name, (await page.goto(path))?.status()]).toEqual([name, status]);
    await page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true");
    expect(await check(page)).toEqual([]);
    expect(await page.evaluate<number>("document.documentElement.scrollWidth")).toBe(look.viewport.width);
    await close();
  });

  test("a login that is refused has no violations", async () => {
    const { page, close } = await openPage(browser, { ...site, password: "wrong" }, look);
    expect((await page.goto("/"))?.status()).toBe(401);
    expect(await check(page)).toEqual([]);
    await close();
  });

  test("an action that is refused has no violations", async () => {
    const { page, close } = await openPage(browser, quiet, look);
    await page.goto("/");
    await page.evaluate(`{
      const form = document.createElement("form");
      Object.assign(form, { method: "post", action: "/actions/redeliver" });
      document.body.append(form);
      form.submit();
    }`);
    await page.getByRole("heading", { name: "This board is read-only" }).waitFor();
    expect(await check(page)).toEqual([]);
    await close();
  });
});

test("a page that lost its Valkey has no violations, nor has the refusal of a new one", async () => {
  const away = await startSite();
  const { page, close } = await openPage(browser, away);
  await page.goto("/");
  away.valkey.pause();
  await page.getByRole("button", { name: "Valkey does not answer, retrying" }).waitFor();
  expect(await check(page)).toEqual([]);
  expect((await page.goto("/"))?.status()).toBe(503);
  expect(await check(page)).toEqual([]);
  away.valkey.resume();
  await close();
  await away.stop();
});

/**
 * Rules that Bull Board's own pages break: its buttons have icons and tooltips but no names, its logo repeats its title, its charts
 * and pages have none. None of this can be mended from outside.
 */
const THEIRS = ["button-name", "image-redundant-alt", "page-has-heading-one", "svg-img-alt"];

test.each(["light", "dark"] as const)("Bull Board breaks no more rules than before: %s", async (colorScheme) => {
  const { page, close } = await openPage(browser, site, { colorScheme });
  const broken = new Set<string>();
  for (const path of ["/board", "/board/queue/webhooks?status=failed"]) {
    await page.goto(path, { waitUntil: "networkidle" });
    for (const violation of await check(page)) broken.add(violation.split(":")[0] as string);
  }
  expect([...broken].filter((rule) => !THEIRS.includes(rule))).toEqual([]);
  await close();
});
