/** @jsxImportSource hono/jsx */
/**
 * Reads what a user's page and the page of a payload show.
 */
import type { Context } from "hono";
import { findUsersJob, groupByEvent, readDeliveries } from "../log/deliveries.ts";
import { listHoldsOn } from "../operations/hold.ts";
import { describePayload } from "../operations/payload.ts";
import { countMoreFailed, findPending } from "../operations/pending.ts";
import type { Notice } from "./layout.tsx";
import { type PageOptions, sendPage } from "./page-response.ts";
import { PayloadPage } from "./payload-page.tsx";
import { isLoggedShown, parseUserFilter } from "./user-filter.tsx";
import { EVENTS_PER_PAGE, UserPage } from "./user-page.tsx";

/**
 * Respond with a user's page.
 *
 * @param userId  valid
 */
export async function sendUserPage(
  c: Context,
  { site, queue, valkey, log, now }: PageOptions,
  userId: string,
  notice: Notice | undefined,
): Promise<Response> {
  const nowMs = now();
  const isIdOfUser = c.req.path === "/users"; // `/users?id=.`
  const filter = parseUserFilter((name) => (name === "id" && isIdOfUser ? undefined : c.req.query(name)));
  const logged = await groupByEvent({ queue, valkey }, await log.list(userId, nowMs, { withResponses: true }));
  const matching = logged.filter((event) => isLoggedShown(event, filter));
  const pages = Math.max(1, Math.ceil(matching.length / EVENTS_PER_PAGE));
  const page = Math.min(pages, Math.max(1, Math.trunc(Number(c.req.query("page"))) || 1));
  const shown = matching.slice((page - 1) * EVENTS_PER_PAGE, page * EVENTS_PER_PAGE);
  const jobs = new Set(logged.flatMap(({ job }) => (job === undefined ? [] : [job])));
  const [deliveries, pending, moreFailed] = await Promise.all([
    readDeliveries({ queue, valkey }, userId, shown),
    findPending(queue, valkey, userId, nowMs),
    countMoreFailed(queue, valkey, userId, jobs),
  ]);
  const loggedEvents = new Set(logged.map(({ id, job }) => `${id} ${job}`));
  const events = pending.events.filter(({ id, job }) => !loggedEvents.has(`${id} ${job}`));
  const endpoints = [...events, ...logged].flatMap(({ endpoint }) => (endpoint === undefined ? [] : [endpoint]));
  const holds = await listHoldsOn({ valkey, queue: queue.name }, userId, endpoints, nowMs);
  const props = { holds, site, userId, filter, logged, matching, page, deliveries, moreFailed, notice, now: nowMs };
  return await sendPage(c, <UserPage {...props} pending={{ ...pending, events }} />);
}

/** Respond with the page of an event's payload; 404 when its job is not kept any more. */
export async function sendPayloadPage(
  c: Context,
  { site, queue, now }: PageOptions,
  userId: string,
  jobId: string,
): Promise<Response> {
  const job = await findUsersJob(queue, jobId, userId, c.req.query("id"));
  const payload = job && describePayload(job, now());
  const content = <PayloadPage site={site} userId={userId} job={jobId} payload={payload} now={now()} />;
  return await sendPage(c, content, payload === undefined ? 404 : 200);
}
