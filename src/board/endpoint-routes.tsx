/** @jsxImportSource hono/jsx */
/**
 * Reads what the pages of registered endpoints show.
 */
import type { Context, Hono, MiddlewareHandler } from "hono";
import { ENDPOINT_ID, USER_ID, USER_ID_FORM } from "../delivery/limits.ts";
import { openHome } from "../homes/homes.ts";
import type { Attempt } from "../log/attempts.ts";
import { groupByEvent, readDeliveries } from "../log/deliveries.ts";
import { listMissed, readMissedCounts } from "../missed/missed.ts";
import { replayMissed } from "../missed/replay.ts";
import { showEndpoint } from "../operations/endpoint-details.ts";
import {
  ENDPOINT_STATES,
  type EndpointPage as EndpointPageOf,
  isEndpointCursor,
  type ListedEndpoint,
  listEndpoints,
} from "../operations/endpoint-list.ts";
import { parseHost } from "../operations/job-filter.ts";
import type { OpenShard, OpenShards } from "../queue/open-shard.ts";
import { homeAmong } from "../queue/shards.ts";
import { countIndex } from "../registry/endpoint-index.ts";
import { ConflictError, NotFoundError } from "../registry/refusals.ts";
import { createRegistry } from "../registry/registry.ts";
import { printable } from "../runtime/printable.ts";
import { codeOf } from "../valkey/refusals.ts";
import { ReplayPage } from "./endpoint-missed.tsx";
import { EndpointPage } from "./endpoint-page.tsx";
import { endpointPath } from "./endpoint-path.ts";
import type { EndpointRowData } from "./endpoint-rows.tsx";
import { EndpointsPage, type EndpointsQuery } from "./endpoints-page.tsx";
import { readTime } from "./failed-query.ts";
import { type Notice, userPath } from "./layout.tsx";
import { type PageOptions, sendPage } from "./page-response.ts";
import { refuse, refuseAway } from "./refusal.tsx";
import type { UserEndpoints } from "./user-endpoints.tsx";
import { awayHome } from "./user-home.ts";

const ROWS = 50;
const NOTHING: EndpointPageOf = { endpoints: [] };
const MISSED_ROWS = 5;
const MAX_FIELD = 400; // characters

type NoticeOf = (c: Context) => Notice | undefined;

/** Add `/endpoints`, `/users/:userId/endpoints/:id` and its dry run of a replay; for users that a path cannot hold `/endpoint`. */
export function addEndpointRoutes(
  app: Hono,
  present: MiddlewareHandler,
  options: PageOptions,
  noticeOf: NoticeOf,
): void {
  app.get("/endpoints", present, (c) => sendEndpointsPage(c, options, noticeOf(c)));
  for (const path of ["/users/:userId/endpoints/:id", "/endpoint"]) {
    app.get(path, present, (c) =>
      withEndpoint(c, options, (...at) => sendEndpointPage(c, options, noticeOf(c), ...at)),
    );
    app.get(`${path}/replay`, present, (c) => withEndpoint(c, options, (...at) => sendReplayPage(c, options, ...at)));
  }
}

/** Whether any endpoint is registered, so that pages may lead to the list. False if the board may not read it, or cannot yet. */
export async function hasEndpoints(shards: OpenShards): Promise<boolean> {
  const counts = await Promise.all(shards.map(({ valkey, tag }) => countIndex(valkey, tag, "all").catch(() => 0)));
  return counts.some((count) => count > 0);
}

/** The registered endpoints of a user; none while the user's shard is away. */
export async function readUserEndpoints(c: Context, { shards }: PageOptions, userId: string): Promise<UserEndpoints> {
  if (awayHome(c, shards, userId) !== undefined) return [];
  try {
    const { endpoints } = await listEndpoints(shards, { userId });
    return await addMissed(shards, endpoints);
  } catch (error) {
    if (error instanceof Error && codeOf(error) === "NOPERM") return "refused";
    throw error;
  }
}

/** Read how much each endpoint missed, with one command for each user. */
async function addMissed(shards: OpenShards, endpoints: readonly ListedEndpoint[]): Promise<EndpointRowData[]> {
  const users = new Map<string, string[]>();
  for (const { userId, id } of endpoints) users.set(userId, [...(users.get(userId) ?? []), id]);
  const counts = new Map(
    await Promise.all(
      [...users].map(async ([userId, ids]) => {
        const { valkey, tag } = homeAmong(shards, userId);
        return [userId, await readMissedCounts(valkey, tag, userId, ids)] as const;
      }),
    ),
  );
  return endpoints.map((endpoint) => {
    const missed = counts.get(endpoint.userId)?.get(endpoint.id) ?? { kept: 0, dropped: 0, bytes: 0 };
    return { ...endpoint, missed };
  });
}

async function sendEndpointsPage(c: Context, options: PageOptions, given: Notice | undefined): Promise<Response> {
  const { site, shards, now } = options;
  const query = readEndpointsQuery(c);
  const host = query.host === undefined ? undefined : parseHost(query.host);
  const isUser = query.user === undefined || USER_ID.test(query.user);
  const problems = [
    ...(isUser ? [] : [`Invalid user ID: expected ${USER_ID_FORM}.`]),
    ...(query.host === undefined || host !== undefined
      ? []
      : ["Invalid host: expected one as in hooks.example.com or 127.0.0.1:8080."]),
  ];
  const isRefused = problems.length > 0;
  const there = c.get("shards");
  const away = query.user === undefined || !isUser ? undefined : awayHome(c, shards, query.user);
  if (away !== undefined) return await refuseAway(c, site, away);
  const count = async (list: "all" | "off") => {
    const counts = await Promise.all(there.map(({ valkey, tag }) => countIndex(valkey, tag, list)));
    return counts.reduce((sum, each) => sum + each, 0);
  };
  const { state, user: userId, cursor } = query;
  const wanted = { state, userId, host, cursor, limit: ROWS };
  const [total, off, page] = await Promise.all([
    count("all"),
    count("off"),
    isRefused ? NOTHING : listEndpoints(userId === undefined ? there : shards, wanted),
  ]);
  const endpoints = await addMissed(shards, page.endpoints);
  const notice: Notice | undefined = isRefused ? { kind: "bad", text: problems.join(" ") } : given;
  const props = { site, query, total, off, endpoints, isRefused, next: page.cursor, notice, now: now() };
  return await sendPage(c, <EndpointsPage {...props} />, isRefused ? 400 : 200);
}

/** The query of the list. Unknown states, and cursors that are none, are ignored. */
function readEndpointsQuery(c: Context): EndpointsQuery {
  const read = (name: string) => c.req.query(name)?.trim().slice(0, MAX_FIELD) || undefined;
  const state = ENDPOINT_STATES.find((name) => name === read("state"));
  const cursor = c.req.query("cursor");
  return {
    state: state === "off" ? undefined : state,
    host: read("host"),
    user: read("user"),
    cursor: cursor !== undefined && isEndpointCursor(cursor) ? cursor : undefined,
  };
}

type AtEndpoint = (home: OpenShard, userId: string, id: string) => Promise<Response>;

/** Find the home of the endpoint that a path names, and pass it on; 404 when there is no such endpoint. */
async function withEndpoint(c: Context, { site, shards }: PageOptions, act: AtEndpoint): Promise<Response> {
  const userId = c.req.param("userId") ?? c.req.query("user") ?? "";
  const id = c.req.param("id") ?? c.req.query("endpoint") ?? "";
  const missing = () =>
    refuse(c, site, {
      status: 404,
      error: "no such endpoint",
      title: "No such endpoint",
      text: "The user has no registered endpoint with this ID. It may have been deleted.",
      ...(USER_ID.test(userId) && { back: { href: userPath(userId), text: `User ${printable(userId)}` } }),
    });
  if (!USER_ID.test(userId) || !ENDPOINT_ID.test(id)) return await missing();
  const away = awayHome(c, shards, userId);
  if (away !== undefined) return await refuseAway(c, site, away);
  try {
    return await act(await openHome(shards, userId, { all: true }), userId, id);
  } catch (error) {
    if (error instanceof NotFoundError) return await missing();
    throw error;
  }
}

async function sendEndpointPage(
  c: Context,
  options: PageOptions,
  notice: Notice | undefined,
  ...[home, userId, id]: Parameters<AtEndpoint>
): Promise<Response> {
  const { site, shards, registry, now } = options;
  const { valkey, tag } = home;
  const [{ endpoint, attempts }, missed] = await Promise.all([
    showEndpoint(shards, userId, id),
    listMissed(valkey, tag, userId, id, { limit: MISSED_ROWS }),
  ]);
  const logged = await groupByEvent(c.get("shards"), await addResponses(c, options, userId, attempts));
  const deliveries = await readDeliveries(c.get("shards"), userId, logged);
  const type = c.req.query("explain") ?? "";
  const explanation = registry.eventTypes.has(type)
    ? await createRegistry(valkey, { tag, eventTypes: registry.eventTypes }).explain(userId, type)
    : undefined;
  const props = { site, userId, endpoint, missed, deliveries, explanation, notice, now: now() };
  const { eventTypes, secretKeys, allowPlain } = registry;
  const canRotate = secretKeys.length > 0 || allowPlain;
  return await sendPage(c, <EndpointPage {...props} eventTypes={[...eventTypes]} canRotate={canRotate} />);
}

/** Responses are kept with the user's log alone: attempts that it still has get theirs. */
async function addResponses(
  c: Context,
  { logOf, now }: PageOptions,
  userId: string,
  attempts: readonly Attempt[],
): Promise<Attempt[]> {
  if (attempts.every(({ success }) => success)) return [...attempts];
  const log = await logOf(c.get("shards")).list(userId, now(), { withResponses: true });
  const responses = new Map(log.map(({ delivery, response }) => [delivery, response]));
  return attempts.map((attempt) => {
    const response = responses.get(attempt.delivery);
    return response === undefined ? attempt : { ...attempt, response };
  });
}

async function sendReplayPage(
  c: Context,
  { site, now }: PageOptions,
  ...[home, userId, id]: Parameters<AtEndpoint>
): Promise<Response> {
  const { valkey, tag } = home;
  const endpoint = await createRegistry(valkey, { tag }).get(userId, id);
  const given = c.req.query("since") ?? "";
  const since = given === "" ? undefined : readTime(given);
  const until = now();
  if (Number.isNaN(since)) {
    return await refuse(c, site, {
      status: 400,
      error: "expected since to be a time",
      title: "Invalid time",
      text: "Expected a time as in 2026-11-24T09:12:03, in UTC. Nothing was changed.",
      back: { href: endpointPath(userId, id), text: "Back to the endpoint" },
    });
  }
  try {
    const replayed = await replayMissed(home, userId, id, { since, until, dryRun: true });
    return await sendPage(c, <ReplayPage {...{ site, userId, endpoint, replayed, since, until }} />);
  } catch (error) {
    if (error instanceof ConflictError) return c.redirect(endpointPath(userId, id, "", { notice: "conflict" }));
    throw error;
  }
}
