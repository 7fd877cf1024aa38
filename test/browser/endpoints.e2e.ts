/** The pages of registered endpoints in a real browser: without JavaScript, checked by axe-core, and what operators do there. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import type { Browser, Page } from "playwright-core";
import { openPage, startChromium } from "./chromium.ts";
import { type EndpointsSite, fillEndpoints, SHOP, startEndpointsSite } from "./endpoints-site.ts";

setDefaultTimeout(120_000);
const AXE = readFileSync(Bun.resolveSync("axe-core/axe.min.js", import.meta.dir), "utf8");
const at = (id: string) => `/users/${SHOP}/endpoints/${id}`;
let site: EndpointsSite;
let empty: EndpointsSite; // read-only, with a single endpoint or none
let browser: Browser;

beforeAll(async () => {
  [site, empty, browser] = await Promise.all([
    startEndpointsSite(),
    startEndpointsSite({ BOARD_READONLY: "1" }),
    startChromium(),
  ]);
  await fillEndpoints(site);
  await empty.registry.create("usr_locked", { id: "main", url: "https://a.example/in" });
  await empty.registry.disable("usr_locked", "main");
});
afterAll(async () => {
  await browser?.close();
  await Promise.all([site?.stop(), empty?.stop()]);
});

/** What axe-core objects to, as `rule: element`. */
async function check(page: Page): Promise<string[]> {
  await page.evaluate(AXE);
  return await page.evaluate<string[]>(`axe
    .run(document, { resultTypes: ["violations"] })
    .then(({ violations }) => violations.flatMap(({ id, nodes }) =>
      nodes.map(({ html, any }) => id + ": " + html.slice(0, 160) + " " + any.map(({ message }) => message).join("; "))))`);
}

const PAGES: [name: string, at: () => EndpointsSite, path: string, status?: number][] = [
  ["the list of endpoints", () => site, "/endpoints"],
  ["a list that nothing matches", () => site, "/endpoints?state=failing&host=nowhere.example"],
  ["a list with a wrong filter", () => site, "/endpoints?host=a%20b", 400],
  ["a user's page with endpoints", () => site, `/users/${SHOP}`],
  ["an endpoint that works, explained", () => site, `${at("main")}?explain=file.created`],
  ["an endpoint that fails", () => site, at("search")],
  ["an endpoint that is disabled", () => site, `${at("archive")}?notice=disabled`],
  ["an endpoint that is paused", () => site, at("audit")],
  ["an endpoint on a read-only board", () => empty, "/users/usr_locked/endpoints/main"],
  ["the dry run of a replay", () => site, `${at("search")}/replay`],
  ["a dry run of nothing", () => site, `${at("main")}/replay`],
  ["an endpoint that is not there", () => site, at("none"), 404],
];

const LOOKS = [
  { colorScheme: "light", viewport: { width: 1280, height: 900 } },
  { colorScheme: "dark", viewport: { width: 768, height: 900 } },
  { colorScheme: "dark", viewport: { width: 360, height: 740 } },
] as const;

describe.each(LOOKS)("$colorScheme, $viewport.width px wide:", (look) => {
  test.each(PAGES)("%s has no violations, and does not scroll sideways", async (name, of, path, status = 200) => {
    const { page, close } = await openPage(browser, of(), look);
    expect([name, (await page.goto(path))?.status()]).toEqual([name, status]);
    await page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true");
    expect(await check(page)).toEqual([]);
    expect(await page.evaluate<number>("document.documentElement.scrollWidth")).toBe(look.viewport.width);
    await close();
  });

  test("an empty list has no violations, and neither has a new secret", async () => {
    const bare = await openPage(browser, empty, look);
    await empty.registry.delete("usr_locked", "main");
    await bare.page.goto("/endpoints");
    await bare.page.getByRole("heading", { name: "No endpoints are registered" }).waitFor();
    expect(await check(bare.page)).toEqual([]);
    await empty.registry.create("usr_locked", { id: "main", url: "https://a.example/in" });
    await bare.close();
    const { page, close } = await openPage(browser, site, look);
    await page.goto(at("audit"));
    await page.getByLabel("Present secret signs").selectOption("0");
    await page.getByRole("button", { name: "Rotate secret" }).click();
    await page.getByRole("heading", { name: "The new secret" }).waitFor();
    expect(await page.locator("#secret").textContent()).toStartWith("whsec_");
    expect(await check(page)).toEqual([]);
    expect(await page.evaluate<number>("document.documentElement.scrollWidth")).toBe(look.viewport.width);
    await close();
  });
});

test.each([1280, 360])("a long URL is cut in a list, a long note gets a row of its own: %p px wide", async (width) => {
  const url = `https://hooks.example.com/${"x".repeat(2_000)}`;
  const metadata = { plan: "team", note: "n".repeat(500) };
  await site.registry.put("usr_long", "long", { url, description: "d".repeat(256), metadata });
  const { page, complaints, close } = await openPage(browser, site, { viewport: { width, height: 740 } });
  await page.goto("/endpoints?user=usr_long");
  expect((await page.locator(".endpoints .endpoint").boundingBox())?.height).toBeLessThan(80);
  await site.registry.put("usr_longer", "long", { url });
  await page.goto("/search?q=long");
  expect(await page.locator(".finds .endpoint").count()).toBe(2);
  for (const shown of await page.locator(".finds .endpoint").all())
    expect((await shown.boundingBox())?.height).toBeLessThan(80);
  expect(await page.evaluate<number>("document.documentElement.scrollWidth")).toBe(width);
  await page.goto("/users/usr_long/endpoints/long");
  const widthOf = async (name: string) =>
    (await page.locator(".settings > div", { hasText: name }).boundingBox())?.width ?? 0;
  const panel = (await page.locator(".settings").boundingBox())?.width;
  expect([await widthOf("Description"), await widthOf("Metadata")]).toEqual([panel, panel] as number[]);
  expect(await page.evaluate<number>("document.documentElement.scrollWidth")).toBe(width);
  expect(complaints).toEqual([]);
  await close();
});

test("with the keyboard alone an operator resumes an endpoint, explains an event, and goes back to the user", async () => {
  await site.registry.create("usr_keys", { id: "main", url: "https://a.example/in" });
  await site.registry.pause("usr_keys", "main");
  const { page, complaints, close } = await openPage(browser, site);
  await page.goto("/users/usr_keys/endpoints/main");
  const reach = async (id: string) => {
    const isThere = () => page.evaluate<boolean>(`document.activeElement?.id === ${JSON.stringify(id)}`);
    for (let presses = 0; presses < 40 && !(await isThere()); presses++) await page.keyboard.press("Tab");
    expect([id, await isThere()]).toEqual([id, true]);
    const outline = await page.evaluate<string>("getComputedStyle(document.activeElement).outlineStyle");
    expect([id, outline]).toEqual([id, "solid"]);
  };
  await reach("resume");
  await page.keyboard.press("Enter");
  await page.getByText("Resumed. Its events are being delivered.").waitFor();
  await page.getByText("Which endpoints get an event?").focus();
  await page.keyboard.press("Enter");
  await reach("explain-type");
  await page.keyboard.press("ArrowDown");
  await reach("explain-show");
  await page.keyboard.press("Enter");
  await page.getByText("gets it").waitFor();
  await page.getByRole("link", { name: "usr_keys" }).first().focus();
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "1 registered endpoint" }).waitFor();
  expect(complaints).toEqual([]);
  await close();
});

test("without JavaScript an operator finds a disabled endpoint, enables it, and later replays what it missed", async () => {
  const { page, complaints, close } = await openPage(browser, site, { javaScriptEnabled: false });
  await page.goto("/");
  await page.getByRole("link", { name: "Endpoints" }).click();
  await page.getByRole("link", { name: "Disabled" }).click();
  await page.getByRole("link", { name: "archive" }).click();
  await page.getByText("10 kept, 15 older ones not").waitFor();
  await page.getByRole("button", { name: "Enable only" }).click();
  await page.getByText("Enabled. Its events are being delivered.").waitFor();
  await page.getByRole("button", { name: "Replay…" }).click();
  await page.getByRole("heading", { name: "10 events would be replayed" }).waitFor();
  await page.getByRole("button", { name: "Replay 10 events" }).click();
  await page.getByText("Replayed: 10 events queued for delivery.").waitFor();
  await page.getByText("Which endpoints get an event?").click();
  await page.getByLabel("Event type").selectOption("share.linked");
  await page.getByRole("button", { name: "Explain" }).click();
  await page.getByText("does not want it: wants file.created").waitFor();
  expect(complaints).toEqual([]);
  await close();
});

test("a page that refreshes itself shows a test event's attempt, and keeps what the operator has chosen", async () => {
  const { page, complaints, close } = await openPage(browser, site);
  await page.goto(at("main"));
  await page.getByLabel("Present secret signs").selectOption("3600");
  await page.locator("#explain summary").click();
  const before = await page.locator(".attempt").count();
  await site.post(SHOP, "main");
  await page.locator(".attempt").nth(before).waitFor();
  expect(await page.getByLabel("Present secret signs").inputValue()).toBe("3600");
  expect(await page.getByLabel("Event type").isVisible()).toBe(true);
  await page.getByRole("button", { name: "Send test event" }).click();
  await page.getByText("Test event queued.").waitFor();
  await page.locator(".chip", { hasText: "test event" }).first().waitFor();
  expect(complaints).toEqual([]);
  await close();
});
