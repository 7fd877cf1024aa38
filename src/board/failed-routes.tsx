/** @jsxImportSource hono/jsx */
/**
 * The list of failed events, and their redelivery in bulk.
 */
import type { Context, Hono, MiddlewareHandler } from "hono";
import { type AllFailedEvents, readOpenHosts } from "../operations/failed-events.ts";
import { shardOfJob } from "../queue/open-shard.ts";
import { refuseReadonly } from "./actions.ts";
import { PreviewPage, RunPage, runPath } from "./bulk-page.tsx";
import { createBulkRedelivery } from "./bulk-redelivery.ts";
import { FailedPage, ROWS } from "./failed-page.tsx";
import { filterOf, pinned, queryString, readQuery } from "./failed-query.ts";
import { type PageOptions, sendPage } from "./page-response.ts";
import { refuse } from "./refusal.tsx";

const READ_MS = 1500; // 1.5 s for what failed since the last time; the rest is read by the next request
const READ_ALL_MS = 8 * 1000; // 8 s, before events are redelivered that match a filter: none may be missing
const MAX_SELECTED = 1_000; // jobs in one form; a page has fewer

/** Add `/failed`, its dry run, its runs, and the actions that start and cancel one. */
export function addFailedRoutes(
  app: Hono,
  present: MiddlewareHandler,
  options: PageOptions,
  all: AllFailedEvents,
): void {
  const { site, shards, boardLog, now } = options;
  const bulk = createBulkRedelivery(shards, now);

  app.get("/failed", present, async (c) => {
    const query = readQuery(c.req.query());
    const failed = all.among(c.get("shards"));
    const unread = await failed.refresh(READ_MS);
    const events = failed.list(filterOf(query, now()));
    const pages = Math.max(1, Math.ceil(events.length / ROWS));
    const page = Math.min(pages, Math.max(1, Number.parseInt(c.req.query("page") ?? "", 10) || 1));
    const kept = failed.list().length + unread;
    const runs = bulk.list().slice(0, 3);
    return sendPage(
      c,
      <FailedPage {...{ site, query, events, kept, unread, page, runs }} notice={undefined} now={now()} />,
    );
  });

  app.get("/failed/redeliver", present, async (c) => {
    const given = c.req.query();
    const jobs = given.of === "all" ? undefined : (c.req.queries("job") ?? []).slice(0, MAX_SELECTED);
    const query = pinned(readQuery(given), now());
    const failed = all.among(c.get("shards"));
    const unread = await failed.refresh(READ_ALL_MS);
    const wanted = new Set(jobs);
    const events = failed.list(jobs === undefined ? filterOf(query, now()) : {});
    const circuits = await readOpenHosts(shards, now());
    const props = { site, query, jobs, circuits, back: `/failed${queryString(readQuery(given))}` };
    const shown = jobs === undefined ? events : events.filter(({ job }) => wanted.has(job));
    return sendPage(c, <PreviewPage {...props} events={shown} unread={jobs === undefined ? unread : 0} />);
  });

  app.get("/failed/runs/:id", present, (c) => {
    const id = c.req.param("id");
    return sendPage(
      c,
      <RunPage site={site} id={id} run={bulk.find(id)} query={readQuery(c.req.query())} now={now()} />,
    );
  });

  app.post("/actions/redeliver-failed", present, async (c) => {
    if (site.isReadonly) return await refuseReadonly(c, options, "redeliver-failed");
    const { fields: given, jobs } = await readForm(c);
    const isSelection = jobs.length > 0;
    const query = readQuery(given);
    const present = c.get("shards");
    const failed = all.among(present);
    if (!isSelection && query.to === undefined) return await refuseForm(c);
    if (!isSelection && (await failed.refresh(READ_ALL_MS)) > 0) return await refuseUnread(c);
    const wanted = isSelection
      ? jobs.filter((job) => shardOfJob(present, job) !== undefined)
      : failed.list(filterOf(query, now())).map(({ job }) => job);
    const log = boardLog.later(c);
    const fields = { action: "redeliver-failed", ...(isSelection ? { selected: jobs.length } : { filter: query }) };
    const run = bulk.start(wanted, ({ id, state, total, counts }, error) => {
      const reason = error instanceof Error ? { reason: error.message } : {};
      log({ ...fields, run: id, result: state, events: total, ...counts, ...reason });
    });
    if (run === undefined) return await refuseMore(c);
    log({ ...fields, run: run.id, result: "started", events: run.total });
    return c.redirect(runPath(run.id, isSelection ? {} : query), 303);
  });

  app.post("/actions/cancel-redelivery", present, async (c) => {
    if (site.isReadonly) return await refuseReadonly(c, options, "cancel-redelivery");
    const { fields } = await readForm(c);
    if (typeof fields.run !== "string" || fields.run === "") return await refuseForm(c);
    bulk.cancel(fields.run);
    boardLog.action(c, { action: "cancel-redelivery", run: fields.run.slice(0, 100), result: "canceled" });
    return c.redirect(runPath(fields.run, readQuery(fields)), 303);
  });

  const refuseForm = (c: Context) =>
    refuse(c, site, {
      status: 400,
      error: "expected a form of the page /failed/redeliver",
      title: "Incomplete form",
      text: "Expected the form of the page before. Nothing was changed.",
    });
  const refuseUnread = (c: Context) =>
    refuse(c, site, {
      status: 503,
      error: "the failed events are still being read",
      title: "The failed events are still being read",
      text: "There are too many to read them all at once. Nothing was changed: send the form again in a moment.",
    });
  const refuseMore = (c: Context) =>
    refuse(c, site, {
      status: 409,
      error: "two redeliveries are running",
      title: "Two redeliveries are running",
      text: "Wait until one of them ends, or cancel it: the page of failed events shows them. Nothing was changed.",
    });
}

/** A form's fields, and its jobs: a field that may occur several times. */
async function readForm(c: Context): Promise<{ fields: Record<string, unknown>; jobs: string[] }> {
  const { job, ...fields } = await c.req.parseBody({ all: true }).catch(() => ({}) as Record<string, unknown>);
  const jobs = [job].flat().filter((id) => typeof id === "string" && id !== "") as string[];
  return { fields, jobs: jobs.slice(0, MAX_SELECTED) };
}
