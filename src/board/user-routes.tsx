/** @jsxImportSource hono/jsx */
/**
 * Reads what a user's page and the page of a payload show.
 */
import type { Context } from "hono";
import type { AttemptLog } from "../log/attempts.ts";
import { findUsersJob, groupByEvent, readDeliveries } from "../log/deliveries.ts";
import { holdPlacesOf, listHoldsOn } from "../operations/hold.ts";
import { describePayload } from "../operations/payload.ts";
import { countMoreFailed, findPending } from "../operations/pending.ts";
import type { OpenShards } from "../queue/open-shard.ts";
import { readUserEndpoints } from "./endpoint-routes.tsx";
import type { Notice } from "./layout.tsx";
import { type PageOptions, sendPage } from "./page-response.ts";
import { PayloadPage } from "./payload-page.tsx";
import { locateJob } from "./refusal.tsx";
import { isLoggedShown, parseUserFilter, type UserFilter } from "./user-filter.tsx";
import { EVENTS_PER_PAGE, UserPage, type UserPageProps } from "./user-page.tsx";

const MAX_READS = 3; // of a log that is written meanwhile

/**
 * Respond with a user's page.
 *
 * @param userId  valid
 */
export async function sendUserPage(
  c: Context,
  options: PageOptions,
  userId: string,
  notice: Notice | undefined,
): Promise<Response> {
  const { site } = options;
  const shards = c.get("shards");
  const log = options.logOf(shards);
  const now = options.now();
  const isIdOfUser = c.req.path === "/users"; // `/users?id=.`
  const filter = parseUserFilter((name) => (name === "id" && isIdOfUser ? undefined : c.req.query(name)));
  const [read, pending] = await Promise.all([
    readLogged({ shards, log }, userId, filter, Math.trunc(Number(c.req.query("page"))) || 1, now),
    findPending(shards, userId, now, undefined, site.shards),
  ]);
  const { logged } = read;
  const jobs = new Set(logged.flatMap(({ job }) => (job === undefined ? [] : [job])));
  const known = new Set(logged.map(({ id, job }) => `${id} ${job}`));
  const events = pending.events.filter(({ id, job }) => !known.has(`${id} ${job}`));
  const endpoints = [...events, ...logged].flatMap(({ endpoint }) => (endpoint === undefined ? [] : [endpoint]));
  const [moreFailed, holds, registered] = await Promise.all([
    countMoreFailed(shards, userId, jobs),
    listHoldsOn(holdPlacesOf(shards), userId, endpoints, now),
    readUserEndpoints(c, options, userId),
  ]);
  const props = { ...read, site, userId, filter, moreFailed, holds, registered, notice, now };
  return await sendPage(c, <UserPage {...props} pending={{ ...pending, events }} />);
}

/**
 * Read the log and the jobs of one page of its events. The log is read again if it has changed meanwhile: an attempt is logged before its
 * job is finished, so that no event is shown as delivered without the attempt that did.
 */
async function readLogged(
  { shards, log }: { readonly shards: OpenShards; readonly log: Pick<AttemptLog, "list"> },
  userId: string,
  filter: UserFilter,
  wantedPage: number,
  now: number,
): Promise<Pick<UserPageProps, "logged" | "matching" | "page" | "deliveries">> {
  let attempts = await log.list(userId, now, { withResponses: true });
  for (let reads = 1; ; reads++) {
    const logged = await groupByEvent(shards, attempts);
    const matching = logged.filter((event) => isLoggedShown(event, filter));
    const pages = Math.max(1, Math.ceil(matching.length / EVENTS_PER_PAGE));
    const page = Math.min(pages, Math.max(1, wantedPage));
    const shown = matching.slice((page - 1) * EVENTS_PER_PAGE, page * EVENTS_PER_PAGE);
    const deliveries = await readDeliveries(shards, userId, shown);
    const [latest] = await log.list(userId, now, { limit: 1 });
    const isUnchanged = latest?.delivery === attempts[0]?.delivery;
    if (isUnchanged || reads === MAX_READS) return { logged, matching, page, deliveries };
    attempts = await log.list(userId, now, { withResponses: true });
  }
}

/**
 * Respond with the page of an event's payload; 404 when its job is not kept any more.
 *
 * @param jobName  with its shard's label
 */
export async function sendPayloadPage(
  c: Context,
  options: PageOptions,
  userId: string,
  jobName: string,
): Promise<Response> {
  const { site, now } = options;
  const at = await locateJob(c, options, jobName);
  if (at instanceof Response) return at;
  const job = at && (await findUsersJob(at.shard.client, at.id, userId, c.req.query("id")));
  const payload = job && describePayload(job, now());
  const content = <PayloadPage site={site} userId={userId} job={jobName} payload={payload} now={now()} />;
  return await sendPage(c, content, payload === undefined ? 404 : 200);
}
