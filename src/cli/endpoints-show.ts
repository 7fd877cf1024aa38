/**
 * `fluxhook endpoints list`, `show`, `attempts`, `explain` and `missed`: what there is, and how it has been going.
 */
import type { Command } from "commander";
import { listMissed } from "../missed/missed.ts";
import { showEndpoint } from "../operations/endpoint-details.ts";
import {
  ENDPOINT_STATES,
  type EndpointQuery,
  type EndpointStateFilter,
  isEndpointCursor,
  listEndpoints,
} from "../operations/endpoint-list.ts";
import { parseHost } from "../operations/job-filter.ts";
import { formatAgo } from "../operations/moments.ts";
import type { OpenShards } from "../queue/open-shard.ts";
import { readEndpointLog } from "../streaks/endpoint-log.ts";
import { printAttempts } from "./attempts.ts";
import {
  act,
  CommandError,
  type Context,
  EXIT,
  type ExitCode,
  type JsonOption,
  readConfig,
  withReachable,
} from "./context.ts";
import { readIds, withHome } from "./endpoints-input.ts";
import {
  describeEndpoint,
  describeMissed,
  isoOf,
  nameMissed,
  printEndpoint,
  printEndpoints,
} from "./endpoints-output.ts";
import { checkEventType, readEventTypes, readInteger, readMoment, readUser } from "./input.ts";
import { printable, type Terminal } from "./terminal.ts";

interface ListOptions extends JsonOption {
  readonly state?: string;
  readonly host?: string;
  readonly limit?: string;
  readonly cursor?: string;
}

const MAX_LISTED = 1_000;
const LISTED = "100";
const MISSED = "50";

export function addList(endpoints: Command, context: Context): void {
  endpoints
    .command("list")
    .description("list a user's endpoints, or those of all users, the latest change first")
    .argument("[user]", "the user's id")
    .option("--state <state>", `only those: ${ENDPOINT_STATES.join(", ")}`)
    .option("--host <host[:port]>", "only at this host")
    .option("--limit <number>", `of all users, how many: ${LISTED} by default, at most ${MAX_LISTED}`)
    .option("--cursor <cursor>", "of all users, the next ones: as the list before printed it")
    .option("--json", "print JSON")
    .action(
      act<ListOptions, [string | undefined]>(context, async (terminal, options, user) => {
        const query = readQuery(options, user);
        const config = readConfig(context.env, terminal);
        const run = async (shards: OpenShards): Promise<ExitCode> => {
          const { endpoints: found, cursor } = await listEndpoints(shards, query);
          const shown = found.map(({ userId, ...endpoint }) => describeEndpoint(userId, endpoint));
          terminal.printJson({ endpoints: shown, cursor: cursor ?? null });
          if (found.length > 0) printEndpoints(terminal, found, Date.now());
          else terminal.print(cursor === undefined ? describeNone(query) : "None so far.");
          if (cursor !== undefined) terminal.print(`There may be more: --cursor ${cursor}`);
          return EXIT.ok;
        };
        if (query.userId === undefined) return await withReachable(config, terminal, ({ shards }) => run(shards));
        return await withHome(config, query.userId, ({ shard }) => run([shard]));
      }),
    );
}

/** That nothing was found, and where. */
function describeNone({ userId, state, host }: EndpointQuery): string {
  const of = userId === undefined ? "" : ` of user ${printable(userId)}`;
  return state === undefined && host === undefined ? `No endpoints${of} are registered.` : `No endpoint${of} matches.`;
}

function readQuery({ state, host, limit, cursor }: ListOptions, user: string | undefined): EndpointQuery {
  if (state !== undefined && !ENDPOINT_STATES.includes(state as EndpointStateFilter)) {
    throw new CommandError("usage", `expected --state to be one of ${ENDPOINT_STATES.join(", ")}, got "${state}"`);
  }
  const at = host === undefined ? undefined : parseHost(host);
  if (host !== undefined && at === undefined) {
    throw new CommandError("usage", `expected --host to be a host, as in example.com or 127.0.0.1:8080, got "${host}"`);
  }
  if (cursor !== undefined && !isEndpointCursor(cursor)) {
    throw new CommandError("usage", "expected --cursor to be what the list before printed");
  }
  if (user !== undefined && (limit ?? cursor) !== undefined) {
    throw new CommandError("usage", "--limit and --cursor are for the list of all users");
  }
  return {
    userId: user === undefined ? undefined : readUser(user),
    state: state as EndpointStateFilter | undefined,
    ...{ host: at, cursor, limit: readInteger(limit ?? LISTED, "--limit", 1, MAX_LISTED) },
  };
}

export function addShow(endpoints: Command, context: Context): void {
  endpoints
    .command("show")
    .description("show an endpoint: its settings, state, health and what it missed")
    .argument("<user>", "the user's id")
    .argument("<id>", "the endpoint's id")
    .option("--json", "print JSON")
    .action(
      act<JsonOption, [string, string]>(context, async (terminal, _options, user, name) => {
        const { userId, id } = readIds(user, name);
        return await withHome(readConfig(context.env, terminal), userId, async ({ shard }) => {
          const { endpoint, missed } = await showEndpoint([shard], userId, id);
          terminal.printJson({ ...describeEndpoint(userId, endpoint), missed: describeMissed(missed) });
          printEndpoint(terminal, userId, endpoint, Date.now(), missed);
          return EXIT.ok;
        });
      }),
    );
}

export function addEndpointAttempts(endpoints: Command, context: Context): void {
  endpoints
    .command("attempts")
    .description("list an endpoint's last 25 attempts, newest first")
    .argument("<user>", "the user's id")
    .argument("<id>", "the endpoint's id")
    .option("--json", "print JSON")
    .action(
      act<JsonOption, [string, string]>(context, async (terminal, _options, user, name) => {
        const { userId, id } = readIds(user, name);
        const config = readConfig(context.env, terminal);
        return await withHome(config, userId, async ({ shard: { valkey, tag }, registry }) => {
          await registry.get(userId, id); // throws when there is none
          const attempts = await readEndpointLog(valkey, tag, userId, id);
          terminal.printJson(attempts);
          if (attempts.length === 0) terminal.print(`No attempts to endpoint ${id} of ${userId} are kept.`);
          else printAttempts(terminal, attempts, config.timeoutMs, Date.now());
          return EXIT.ok;
        });
      }),
    );
}

interface ExplainOptions extends JsonOption {
  readonly at?: string;
}

export function addExplain(endpoints: Command, context: Context): void {
  endpoints
    .command("explain")
    .description("say which of a user's endpoints get an event that names none, and why not the others")
    .argument("<user>", "the user's id")
    .argument("<event>", "the event type")
    .option("--at <when>", "enqueued then: a duration ago (2h) or an ISO 8601 time; now by default")
    .option("--json", "print JSON")
    .action(
      act<ExplainOptions, [string, string]>(context, async (terminal, { at }, user, event) => {
        const userId = readUser(user);
        checkEventType(event, readEventTypes(context.env), "the event");
        const enqueuedAt = at === undefined ? undefined : readMoment(at, "--at", Date.now());
        return await withHome(readConfig(context.env, terminal), userId, async ({ registry }) => {
          const { summary, endpoints: found } = await registry.explain(userId, event, { enqueuedAt });
          const all = found.map(({ id, url, reception, why }) => ({ id, url, reception: reception.kind, why }));
          terminal.printJson({ user: userId, event, summary, endpoints: all });
          terminal.print(`${event} for ${userId}: ${summary}`);
          terminal.printTable(found.map(({ id, url, why }) => ["", printable(id), printable(url), printable(why)]));
          return EXIT.ok;
        });
      }),
    );
}

interface MissedOptions extends JsonOption {
  readonly limit?: string;
  readonly cursor?: string;
}

export function addMissed(endpoints: Command, context: Context): void {
  endpoints
    .command("missed")
    .description("list what an endpoint missed, newest first")
    .argument("<user>", "the user's id")
    .argument("<id>", "the endpoint's id")
    .option("--limit <number>", `how many: ${MISSED} by default, at most ${MAX_LISTED}`)
    .option("--cursor <cursor>", "the next ones: as the list before printed it")
    .option("--json", "print JSON")
    .action(
      act<MissedOptions, [string, string]>(context, async (terminal, { limit = MISSED, cursor }, user, name) => {
        const { userId, id } = readIds(user, name);
        const page = { limit: readInteger(limit, "--limit", 1, MAX_LISTED), cursor };
        if (cursor !== undefined && !/^\d{1,15}(?:\.\d+)?:[\x21-\x7e]+$/.test(cursor)) {
          throw new CommandError("usage", "expected --cursor to be what the list before printed");
        }
        return await withHome(readConfig(context.env, terminal), userId, async ({ shard, registry }) => {
          await registry.get(userId, id); // throws when there is none
          return printMissed(terminal, await listMissed(shard.valkey, shard.tag, userId, id, page));
        });
      }),
    );
}

function printMissed(
  terminal: Terminal,
  { events, cursor, ...counts }: Awaited<ReturnType<typeof listMissed>>,
): ExitCode {
  const nowMs = Date.now();
  const shown = events.map(({ id, job, event, timestamp, cause, missedAt, bytes }) => ({
    ...{ id, job, event, timestamp: isoOf(timestamp), cause, missed_at: isoOf(missedAt), bytes },
  }));
  terminal.printJson({ ...describeMissed(counts), events: shown, cursor: cursor ?? null });
  terminal.print(nameMissed(counts, nowMs));
  if (events.length > 0) {
    terminal.printTable([
      ["event", "enqueued", "missed", "cause", "id", "job"].map((name) => terminal.paint(name, "dim")),
      ...events.map(({ id, job, event, timestamp, cause, missedAt }) => [
        ...[printable(event), formatAgo(nowMs - timestamp), formatAgo(nowMs - missedAt)],
        ...[printable(cause), printable(id), printable(job)],
      ]),
    ]);
  }
  if (cursor !== undefined) terminal.print(`There are more: --cursor ${printable(cursor)}`);
  return EXIT.ok;
}
