/** The board's pages for the call "this event did not arrive": the search, the failed events, and their redelivery in bulk. */
import { afterAll, beforeEach, describe, expect, test } from "bun:test";
import { Registry } from "prom-client";
import { type BoardConfig, createBoardApp } from "../src/board/app.ts";
import { filterOf, pinned, readQuery } from "../src/board/failed-query.ts";
import type { Site } from "../src/board/layout.tsx";
import { SearchPage } from "../src/board/search-page.tsx";
import { startReceiver } from "../src/dev/receiver.ts";
import type { Logger } from "../src/runtime/logger.ts";
import { BOARD_DEFAULTS } from "./support/board.ts";
import { onlyShard } from "./support/only-shard.ts";
import { eventOf, eventually, jobData, type Line, QUICK, startStack } from "./support/stack.ts";

const SECRET = "s3cret-of-the-test";
const TOKEN = "token-in-the-query";
const stack = await startStack({ policy: { ...QUICK, attempts: 1 } });
const receiver = await startReceiver();
const lines: Line[] = [];
const write = (level: string) => (fields: object, message: string) => lines.push({ level, message, ...fields });
const logger = { info: write("info"), warn: write("warn"), error: write("error") } as unknown as Logger;
const create = (config: Partial<BoardConfig> = {}) =>
  createBoardApp({
    config: { ...BOARD_DEFAULTS, ...config },
    ...{ shards: onlyShard(stack.queue.name, stack.valkey), registry: new Registry(), logger },
  });
const app = create();
const locked = create({ boardReadonly: true });
const HOST = `127.0.0.1:${receiver.port}`;

beforeEach(async () => {
  await stack.queue.obliterate({ force: true });
});
afterAll(async () => {
  await receiver.stop();
  await stack.stop();
});

const read = async (path: string, from = app) => {
  const response = await from.request(path, { headers: { accept: "text/html" } });
  return { status: response.status, html: await response.text(), location: response.headers.get("location") };
};
const SAME_ORIGIN = { origin: "http://localhost" };
const post = (path: string, fields: [string, string][], headers: Record<string, string> = SAME_ORIGIN, to = app) =>
  to.request(path, { method: "POST", headers, body: new URLSearchParams(fields) });

/** An event that failed with this status. */
async function failed(status = 503, overrides: Partial<ReturnType<typeof jobData>> = {}, name = "share.linked") {
  receiver.answer({ status });
  const job = await stack.queue.add(name, jobData(receiver.url(`/hook?key=${TOKEN}`), overrides));
  expect((await stack.settled(job)).state).toBe("failed");
  return { job: job.id as string, userId: job.data.userId as string, id: eventOf(stack.queue, job).id, queued: job };
}

/** The hidden fields of the form that redelivers. */
const fieldsOf = (html: string) => {
  const [, form = ""] =
    /<form class="bulk" action="\/actions\/redeliver-failed" method="post">(.*?)<\/form>/s.exec(html) ?? [];
  return [...form.matchAll(/name="([^"]+)" value="([^"]*)"/g)].map(
    ([, name, value]) => [name, (value as string).replaceAll("&amp;", "&")] as [string, string],
  );
};
const ended = (run: string) =>
  eventually(
    () => lines.findLast((line) => line.run === run && line.result !== "started"),
    (line) => line !== undefined,
  ) as Promise<Line>;

describe("the search", () => {
  test("leads to the user's page with the event alone, and says what it found", async () => {
    const { id, userId, job } = await failed();
    await failed(500, { userId });
    const byEvent = await read(`/search?q=%20${id.toUpperCase()}%20`);
    expect([byEvent.status, byEvent.location]).toEqual([302, `/users/${userId}?id=${id}&notice=found-event-${id}`]);
    const page = await read(byEvent.location as string);
    expect(page.html).toContain(`Found event ${id}.`);
    expect(page.html.split('class="delivery bad"')).toHaveLength(2);
    const [attempt] = await stack.attempts(userId).then((all) => all.filter((one) => one.id === id));
    const byDelivery = await read(`/search?q=${attempt?.delivery}`);
    const found = byDelivery.location as string;
    expect(found).toEndWith(`?id=${id}&notice=found-delivery-${attempt?.delivery}#a-${attempt?.delivery}`);
    expect((await read(found)).html).toContain(`Found delivery ${attempt?.delivery} of event ${id}.`);
    const byJob = await read(`/search?q=${job}`);
    expect((await read(byJob.location as string)).html).toContain(`Found the job of event ${id}.`);
    expect((await read(`/search?q=${userId}`)).location).toBe(`/users/${userId}`);
  });

  test("finds a delivered event whose job is gone", async () => {
    receiver.answer({ status: 200 });
    const job = await stack.queue.add("file.created", jobData(receiver.url()));
    await stack.settled(job);
    const { id } = eventOf(stack.queue, job);
    await job.remove();
    expect((await read(`/search?q=${id}`)).location).toBe(
      `/users/${job.data.userId}?id=${id}&notice=found-event-${id}`,
    );
  });

  test("shows a kept event that its user's log has no room for among the failed ones, or by its payload", async () => {
    const { id, userId, job, queued } = await failed();
    await stack.valkey.del(`webhooks:log:${userId}`);
    expect((await read(`/search?q=${id}`)).location).toBe(`/failed?id=${id}`);
    expect((await read(`/failed?id=${id}`)).html).toContain(`id="f-${job}"`);
    receiver.answer({ status: 200 });
    const settled = stack.settled(queued);
    await queued.retry("failed");
    await settled;
    await stack.valkey.del(`webhooks:log:${userId}`);
    expect((await read(`/search?q=${id}`)).location).toBe(`/users/${userId}/events/${job}?id=${id}`);
  });

  test("lists what is ambiguous, each with what it is", async () => {
    const { job, userId } = await failed();
    await failed(500, { userId: job });
    const { status, html } = await read(`/search?q=${job}`);
    expect(status).toBe(200);
    expect(html).toContain(`<b>User</b><a href="/users/${job}">`);
    expect(html).toMatch(new RegExp(`<b>Job</b><a href="/users/${userId}\\?id=[^"]+">${job}</a>`));
  });

  test("shows a host with its events, its circuit and the way to its failed ones", async () => {
    await failed();
    const { data } = await stack.queue.add("file.created", jobData(receiver.url()), { delay: 60_000 });
    const { html } = await read(`/search?q=${HOST}`);
    expect(html).toContain(`<code>${HOST}</code>`);
    expect(html).toContain(`<a href="/failed?host=127.0.0.1%3A${receiver.port}">1 failed</a>, 1 pending.`);
    expect(html).toContain("No open circuit.");
    expect(html).toContain(`<a href="/users/${data.userId}?id=`);
    expect(html).not.toContain(TOKEN);
  });

  test("says what it did not find, what it searched, and where else to look", async () => {
    const { html } = await read("/search?q=usr_nobody");
    expect(html).toContain("Nothing found for <code>usr_nobody</code>");
    expect(html).toMatch(/Searched 0 kept jobs and [\d,]+ logs\./);
    expect(html).toContain('<a href="/users/usr_nobody">show the page of usr_nobody</a>');
    expect((await read("/search")).html).toContain("Ids are compared as a whole");
  });

  test("offers to go on when its time was over, and to try again when others were searching", async () => {
    const text = crypto.randomUUID();
    const reach = { searched: 12_000, total: 50_000 };
    const findings = {
      text,
      finds: [],
      hasMoreEndpoints: true,
      jobs: { searched: 11_000, total: 11_000 },
      logs: reach,
      next: "77",
      isBusy: false,
    };
    const site = { isReadonly: false, environment: "", bullBoard: "/board", logSize: 10 } as Site;
    const cut = String(SearchPage({ site, findings, isContinued: false, now: 0 }));
    expect(cut).toContain("Nothing found yet for");
    expect(cut).toContain("Searched 11,000 kept jobs and 12,000 of about 50,000 logs.");
    expect(cut).toContain(`<a href="/search?q=${text}&amp;from=77">Search on</a>`);
    expect(cut).toContain("Not all registered endpoints were searched.");
    const next = String(SearchPage({ site, findings: { ...findings, jobs: undefined }, isContinued: true, now: 0 }));
    expect(next).toContain("Searched another 12,000 of about 50,000 logs.");
    const busy = { ...findings, jobs: undefined, logs: undefined, next: undefined, isBusy: true };
    expect(String(SearchPage({ site, findings: busy, isContinued: false, now: 0 }))).toContain(
      `Two other searches are running, so jobs and logs were not searched. <a href="/search?q=${text}">Try again</a>`,
    );
  });

  test("shows nothing that a link brings along, and takes no cursor but a number", async () => {
    const evil = `"><script>alert(1)</script>`;
    for (const path of [
      `/search?q=${encodeURIComponent(evil)}`,
      `/search?q=${encodeURIComponent(evil)}&from=${encodeURIComponent(evil)}`,
      `/search?q=x&from=99999999999999999999`,
      `/search?q=x&from=${"9".repeat(50)}`,
      `/users/u?id=${encodeURIComponent(evil)}&notice=found-event`,
      `/users/u?notice=found-event-call-this-number`,
      `/users/u?notice=found-job&id=call-this-number`,
      `/failed?reason=${encodeURIComponent(evil)}&host=${encodeURIComponent(evil)}&page=${encodeURIComponent(evil)}`,
      `/failed/redeliver?of=all&user=${encodeURIComponent(evil)}`,
      `/failed/redeliver?job=${encodeURIComponent(evil)}`,
      `/failed/runs/${encodeURIComponent(evil)}?host=${encodeURIComponent(evil)}`,
    ]) {
      const { status, html } = await read(path);
      expect([path, status]).toEqual([path, 200]);
      expect(html).not.toContain("<script>alert");
      expect(html).not.toContain("Found event call");
      if (path.includes("notice")) expect(html).not.toContain('role="status">call');
    }
  });
});

describe("the list of failed events", () => {
  test("has totals by reason, host, user and type, and filters that leave out the rest", async () => {
    const one = await failed(503, { userId: "usr_one" });
    const two = await failed(410, { userId: "usr_two" }, "file.deleted");
    const { html } = await read("/failed");
    expect(html).toContain("2 events kept.");
    for (const name of ["HTTP 503, no attempts left", "HTTP 410", HOST, "usr_one", "file.deleted"]) {
      expect(html).toMatch(
        new RegExp(`<li><a href="/failed\\?[^"]+">${name}</a> <span class="number">\\d</span></li>`),
      );
    }
    expect(html).toContain(`Failed <span class="nav-count">2</span>`);
    expect(html).not.toContain(TOKEN);
    expect(html).not.toContain(SECRET);
    const rows = async (query: string) =>
      [...(await read(`/failed?${query}`)).html.matchAll(/<li id="f-([^"]+)"/g)].map(([, job]) => job as string);
    expect(await rows("")).toEqual([two.job, one.job]);
    expect(await rows("user=usr_one")).toEqual([one.job]);
    expect(await rows("reason=HTTP+410&event=file.deleted&last=1h")).toEqual([two.job]);
    expect(await rows(`host=${HOST}&user=usr_two`)).toEqual([two.job]);
    expect(await rows("host=other.example")).toEqual([]);
    expect(await rows("to=2020-01-01T00:00")).toEqual([]);
    expect(await rows("last=often")).toEqual([]); // what cannot be read matches nothing
    expect((await read("/failed?user=nobody")).html).toContain("No failed event matches.");
  });

  test("shows 50 a page, and no page that is not there", async () => {
    const jobs = await stack.queue.addBulk(
      Array.from({ length: 120 }, () => ({
        name: "file.created",
        data: jobData(receiver.url()),
        opts: { delay: 3_600_000 },
      })),
    );
    for (const [n, { id }] of jobs.entries()) await stack.valkey.zadd(stack.queue.toKey("failed"), n, id as string);
    const count = async (page: string) => (await read(`/failed?page=${page}`)).html.split('<li id="f-').length - 1;
    expect([await count("1"), await count("3"), await count("99"), await count("-1"), await count("x")]).toEqual([
      50, 20, 20, 50, 50,
    ]);
    expect((await read("/failed?page=2")).html).toContain("Page 2 of 3");
  });

  test("of nothing says so", async () => {
    expect((await read("/failed")).html).toContain("Nothing has failed.");
  });
});

describe("a bulk redelivery", () => {
  test("says first what it would do, then does that, and shows how far it has come", async () => {
    const wanted = [await failed(503, { userId: "usr_bulk" }), await failed(503, { userId: "usr_bulk" })];
    const other = await failed(410);
    const preview = await read("/failed/redeliver?of=all&user=usr_bulk");
    expect(preview.html).toContain("2 events would be redelivered, to 1 host");
    expect(preview.html).toContain("Nothing was sent yet.");
    expect(await stack.queue.getFailedCount()).toBe(3);
    const later = await failed(503, { userId: "usr_bulk" }); // after the dry run
    receiver.answer({ status: 200 });
    const settled = wanted.map(({ queued }) => stack.settled(queued));
    const response = await post("/actions/redeliver-failed", fieldsOf(preview.html));
    expect(response.status).toBe(303);
    const path = response.headers.get("location") as string;
    const [run] = /[\da-f-]{36}/.exec(path) as unknown as [string];
    expect((await Promise.all(settled)).map(({ state }) => state)).toEqual(["completed", "completed"]);
    expect(await ended(run)).toMatchObject({
      ...{ level: "info", message: "board.action", action: "redeliver-failed", result: "done", address: "unknown" },
      ...{ events: 2, queued: 2, pending: 0, gone: 0, filter: { user: "usr_bulk" } },
    });
    expect(lines).toContainEqual(
      expect.objectContaining({ action: "redeliver-failed", result: "started", run, events: 2 }),
    );
    const { html } = await read(path);
    expect(html).toContain("Redelivered: 2 of 2 events.");
    expect(html).toContain('<progress max="2" value="2"');
    expect((await read("/failed")).html).toContain("Redelivered: 2 of 2 events");
    for (const { job } of [other, later]) expect(await stack.queue.getJobState(job)).toBe("failed");
  });

  test("of selected rows takes these alone, and leaves alone what is no longer failed", async () => {
    const [first, second, third] = [await failed(), await failed(), await failed()];
    const { html } = await read(`/failed/redeliver?of=selected&job=${first.job}&job=${second.job}&job=nowhere`);
    expect(html).toContain("2 events would be redelivered");
    receiver.answer({ status: 200 });
    const delivered = stack.settled(first.queued);
    await first.queued.retry("failed"); // by somebody else, meanwhile
    await delivered;
    const before = receiver.requests.length;
    const settled = stack.settled(second.queued);
    const response = await post("/actions/redeliver-failed", fieldsOf(html));
    await settled;
    const [run] = /[\da-f-]{36}/.exec(response.headers.get("location") as string) as unknown as [string];
    expect(await ended(run)).toMatchObject({ selected: 2, events: 2, queued: 1, pending: 1 });
    expect(receiver.requests.length).toBe(before + 1);
    expect(await stack.queue.getJobState(third.job)).toBe("failed");
  });

  test("of nothing is not offered", async () => {
    await failed();
    expect((await read("/failed/redeliver?of=selected")).html).toContain("No event was selected.");
    const { html } = await read("/failed/redeliver?of=all&user=nobody");
    expect(html).toContain("Nothing to redeliver");
    expect(html).not.toContain("redeliver-failed");
  });

  test("can be canceled, at most two run at once, and one that is unknown says how to go on", async () => {
    const jobs = await stack.queue.addBulk(
      Array.from({ length: 400 }, () => ({
        name: "file.created",
        data: jobData(receiver.url()),
        opts: { delay: 3_600_000 },
      })),
    );
    for (const { id } of jobs) {
      await stack.valkey.zrem(stack.queue.toKey("delayed"), id as string);
      await stack.valkey.zadd(stack.queue.toKey("failed"), Date.now(), id as string);
    }
    const preview = await read("/failed/redeliver?of=all");
    receiver.answer({ status: 200 });
    const answers = await Promise.all([1, 2, 3].map(() => post("/actions/redeliver-failed", fieldsOf(preview.html))));
    expect(answers.map(({ status }) => status).sort()).toEqual([303, 303, 409]);
    const paths = answers.flatMap((answer) => answer.headers.get("location") ?? []);
    const runs = paths.map((path) => (/[\da-f-]{36}/.exec(path) as RegExpExecArray)[0]);
    for (const run of runs) expect((await post("/actions/cancel-redelivery", [["run", run]])).status).toBe(303);
    for (const run of runs) expect((await ended(run)).result).toBe("canceled");
    expect((await read(paths[0] as string)).html).toMatch(/Canceled after \d+ of 400 events\./);
    expect(await stack.queue.getFailedCount()).toBeGreaterThan(0);
    const restarted = await read(paths[0] as string, create());
    expect(restarted.html).toContain("This redelivery is no longer known");
    expect(restarted.html).toMatch(/href="\/failed\/redeliver\?to=[^"]+&amp;of=all"/);
  });

  test.each<[string, Record<string, string>, [string, string][], number]>([
    [
      "from another site",
      { origin: "https://evil.example", "sec-fetch-site": "cross-site" },
      [["to", "2030-01-01T00:00Z"]],
      403,
    ],
    ["without an origin", {}, [["to", "2030-01-01T00:00Z"]], 403],
    ["without a time up to which events failed", SAME_ORIGIN, [], 400],
    ["with an empty time", SAME_ORIGIN, [["to", ""]], 400],
    [
      "with two times",
      SAME_ORIGIN,
      [
        ["to", "2030-01-01T00:00Z"],
        ["to", "2030-01-01T00:00Z"],
      ],
      400,
    ],
    ["with a time that cannot be read", SAME_ORIGIN, [["to", "tomorrow"]], 303],
  ])("%s changes nothing", async (_, headers, fields, status) => {
    const { queued } = await failed();
    const response = await post("/actions/redeliver-failed", fields, {
      "content-type": "application/x-www-form-urlencoded",
      ...headers,
    });
    expect(response.status).toBe(status);
    if (status === 303)
      await ended((/[\da-f-]{36}/.exec(response.headers.get("location") as string) as RegExpExecArray)[0]);
    expect(await queued.getState()).toBe("failed");
  });

  test("on a board that is read only is neither shown nor done", async () => {
    const { queued } = await failed();
    const to: [string, string] = ["to", new Date(Date.now() + 1_000).toISOString()];
    for (const action of ["redeliver-failed", "cancel-redelivery"]) {
      expect((await post(`/actions/${action}`, [to, ["run", "x"]], SAME_ORIGIN, locked)).status).toBe(403);
    }
    expect(lines).toContainEqual(
      expect.objectContaining({ message: "board.refused", reason: "readonly", action: "redeliver-failed" }),
    );
    for (const path of ["/failed", "/failed/redeliver?of=all"]) {
      const { html } = await read(path, locked);
      expect(html).not.toContain('method="post"');
      expect(html).not.toContain('type="checkbox"');
    }
    expect(await queued.getState()).toBe("failed");
  });
});

test("a query keeps its meaning once its times are fixed", () => {
  const now = Date.parse("2026-11-24T12:00:00Z");
  const query = readQuery({ last: "1h", host: " a.example ", page: "2", from: "", of: "all" });
  expect(query).toEqual({ last: "1h", host: "a.example" });
  expect(filterOf(query, now)).toMatchObject({ sinceMs: now - 3_600_000, untilMs: undefined, host: "a.example" });
  const fixed = pinned(query, now);
  expect(fixed).toEqual({ host: "a.example", from: "2026-11-24T11:00:00.000Z", to: "2026-11-24T12:00:00.000Z" });
  expect(filterOf(fixed, now + 1e6)).toMatchObject({ sinceMs: now - 3_600_000, untilMs: now });
  for (const unreadable of [{ from: "soon" }, { to: "soon" }, { last: "often" }]) {
    expect(filterOf(pinned(unreadable, now), now).sinceMs).toBe(Number.POSITIVE_INFINITY);
  }
  expect(filterOf(readQuery({ from: "2026-11-24T08:00", to: "2026-11-24T09:00:30.5" }), now)).toMatchObject({
    sinceMs: Date.parse("2026-11-24T08:00:00Z"),
    untilMs: Date.parse("2026-11-24T09:00:30.500Z"),
  });
});
