/**
 * Moves a user's endpoints to another shard, after a change of the number of shards.
 *
 * Exactly one shard serves a user. Which one is written in the hash of the user's endpoints (registry/store.ts), not in settings, so that
 * processes with different settings agree:
 *
 * 1. `LEAVE`, in the old shard, writes `/moved <queue of the new shard> <id of the move>` and removes `/version`. From then on
 *    no script changes the endpoints there: writers get an EndpointsMoved error, workers forward jobs. Also written where the user has no
 *    endpoints: none can be registered there afterwards.
 * 2. `ARRIVE`, in the new shard, writes them with their health, and `/arrived <id of the move>`: once, whoever repeats it.
 * 3. `ARRIVED`, in the old shard, removes them and leaves `/moved <queue>` for 30 days, with `/left <ids>` while there is more to
 *    move: what each endpoint missed, and its log.
 *
 * Backends, command and board do this before they read or change a user's endpoints, see homes.ts, and `endpoints rehome` for all users.
 * Workers only forward jobs to the shard that serves the user, and finish moves that a process which died had begun.
 *
 * Any process can finish what another began: each step reads what the others left. A reader that finds `/moved` looks elsewhere, and what
 * it finds in the old shard without it is how things are: a change is made by no other shard.
 */
import { forwardedId } from "../delivery/forwarded-id.ts";
import {
  endpointChangesKey,
  endpointIndexKey,
  endpointLogKey,
  endpointOffKey,
  endpointsKey,
  healthKey,
  missedDataKey,
  missedKey,
} from "../queue/own-keys.ts";
import type { Shard } from "../queue/shards.ts";
import { EndpointsMoved, UnreadableEndpoints } from "../registry/refusals.ts";
import type { Run } from "../registry/store.ts";
import { ENDPOINT_LOG_SIZE } from "../streaks/endpoint-log.ts";
import type { Valkey } from "../valkey/connection.ts";
import {
  ARRIVE,
  ARRIVED,
  KEEP_HEALTH,
  KEEP_MISSED,
  LEAVE,
  READ_LOG,
  READ_MISSED,
  REMOVE_FROM_LOG,
  REMOVE_MISSED,
  REST_MOVED,
  WRITE_LOG,
} from "./move-scripts.ts";

const BATCH = 50; // events at once of those that an endpoint missed
const MAX_AGE_MS = 10 * 1000; // 10 s: what was read longer ago is read anew
const MAX_HOPS = 4; // shards that a user has left one after the other

/** A shard, as a move sees it. */
export interface Place extends Pick<Shard, "queue" | "tag"> {
  readonly valkey: Valkey;
  /** Runs what asks Valkey, and may do so again when the connection was lost. By default once. */
  readonly run?: Run | undefined;
}

/** What a move did. */
export interface Moved {
  /** Endpoints that came. */
  readonly endpoints: number;
  /** Endpoints that did not, since the user has one of that id in the new shard. */
  readonly present: number;
  /** The ids of endpoints of which {@link moveRest} has more to move. */
  readonly left: readonly string[];
}

/** Of an endpoint, beside its document. */
export interface Rest {
  /** Events that it missed. */
  readonly missed: number;
  /** Attempts in its log. */
  readonly attempts: number;
}

type Reply = Buffer | number | null;
type Args = readonly (string | number | Buffer)[];

/** As bytes: what was missed are jobs' data, which may be anything. */
function evaluate({ valkey, run = (work) => work() }: Place, script: string, keys: string[], args: Args) {
  return run(() => valkey.callBuffer("EVAL", script, keys.length, ...keys, ...args) as Promise<unknown>);
}

const textOf = (reply: Reply | undefined): string => String(reply ?? "");
const idsOf = (text: string): string[] => (text === "" ? [] : text.split(" "));
const userKeys = (userId: string, tag: string) => [
  ...[endpointsKey(userId, tag), healthKey(userId, tag)],
  ...[endpointIndexKey(tag), endpointOffKey(tag), endpointChangesKey(tag)],
];

/**
 * Have a user's endpoints in one shard, where another may have them: after this, only `to` serves the user. What each missed and its log
 * are left to {@link moveRest}. One command when that was done before.
 *
 * @param places  all shards that are known: the user may have moved on from `from`
 * @throws  EndpointsMoved when a shard has them that is not among the places; UnreadableEndpoints when the user's key is damaged; when
 *          Valkey answers with an error. Waits while it is away
 */
export async function moveUser(
  places: readonly Place[],
  from: Place,
  to: Place,
  userId: string,
  hops = 0,
): Promise<Moved> {
  const left = await leaveAndArrive(from, to, userId);
  if (!("elsewhere" in left)) return left;
  const { elsewhere, isPending, isAfter } = left;
  const next = places.find(({ queue }) => queue === elsewhere);
  if (next === undefined || next === from || hops >= MAX_HOPS) throw new EndpointsMoved(elsewhere);
  if (isPending) await leaveAndArrive(from, next, userId);
  const moved = await moveUser(places, next, to, userId, hops + 1);
  return isAfter ? await moveUser(places, from, to, userId, hops + 1) : moved;
}

/** A third shard has the endpoints: `isPending` while they are on their way there, `isAfter` when they left `to` for it. */
interface Elsewhere {
  readonly elsewhere: string;
  readonly isPending?: boolean;
  readonly isAfter?: boolean;
}

async function leaveAndArrive(from: Place, to: Place, userId: string): Promise<Moved | Elsewhere> {
  for (;;) {
    const startedAt = performance.now();
    const [endpoints, health, , , changes] = userKeys(userId, from.tag) as [string, string, string, string, string];
    const left = await evaluate(from, LEAVE, [endpoints, health, changes], [to.queue, crypto.randomUUID(), userId]);
    const [status, first, second, third] = left as [Buffer, Reply, unknown, unknown];
    if (textOf(status) === "unreadable") throw new UnreadableEndpoints("this user's endpoints cannot be read");
    if (textOf(status) === "gone") return { endpoints: 0, present: 0, left: idsOf(textOf(first)) };
    if (textOf(status) === "elsewhere") return { elsewhere: textOf(first), isPending: second === 1 };
    const [fields, streaks] = [second as Buffer[], third as Buffer[]];
    // By now it may have arrived by another process, and been erased.
    if (performance.now() - startedAt > MAX_AGE_MS) continue;
    const args = [textOf(first), crypto.randomUUID(), userId, from.queue, fields.length / 2, ...fields, ...streaks];
    const came = (await evaluate(to, ARRIVE, userKeys(userId, to.tag), args)) as [number, number];
    if (came[0] < 0) return { elsewhere: String(came[1]), isAfter: true };
    const rest = await evaluate(from, ARRIVED, userKeys(userId, from.tag), [to.queue, textOf(first), userId]);
    return { endpoints: came[0], present: came[1], left: idsOf(textOf(rest as Buffer)) };
  }
}

/**
 * Move what endpoints missed, and their logs, of a user who has moved. Bounded commands, one after the other; running it again resumes it. Of
 * an endpoint that was deleted since, they are removed.
 *
 * @throws  EndpointsMoved when the user is not in the new shard, or not any more; when Valkey answers with an error. Waits while it is away
 */
export async function moveRest(from: Place, to: Place, userId: string, ids: readonly string[]): Promise<Rest> {
  let [missed, attempts] = [0, 0];
  for (const id of ids) {
    missed += await moveMissed(from, to, userId, id);
    attempts += await moveLog(from, to, userId, id);
  }
  if (ids.length > 0) await evaluate(from, REST_MOVED, [endpointsKey(userId, from.tag)], [ids.join(" ")]);
  return { missed, attempts };
}

async function moveMissed(from: Place, to: Place, userId: string, id: string): Promise<number> {
  const keysIn = ({ tag }: Place) => [missedKey(userId, id, tag), missedDataKey(userId, id, tag)];
  for (let moved = 0; ; ) {
    const read = (await evaluate(from, READ_MISSED, keysIn(from), [BATCH])) as Reply[];
    const [dropped, droppedSince, ...events] = read;
    if (events.length === 0 && dropped === null) return moved;
    const jobs: string[] = [];
    const args: (string | Buffer)[] = [id, textOf(dropped), textOf(droppedSince)];
    for (let at = 0; at < events.length; at += 3) {
      const job = textOf(events[at]);
      jobs.push(job);
      // As its job is called if it is forwarded: in the new shard, another job may have its id.
      args.push(forwardedId({ queue: from.queue, id: job }), events[at + 1] as Buffer, events[at + 2] as Buffer);
    }
    const kept = (await evaluate(to, KEEP_MISSED, [endpointsKey(userId, to.tag), ...keysIn(to)], args)) as number;
    if (kept < 0) throw new EndpointsMoved("another");
    moved += kept;
    if ((await evaluate(from, REMOVE_MISSED, keysIn(from), jobs)) === 0) return moved;
  }
}

async function moveLog(from: Place, to: Place, userId: string, id: string): Promise<number> {
  const [here, there] = [endpointLogKey(userId, id, from.tag), endpointLogKey(userId, id, to.tag)];
  const [expiresInMs, ...entries] = (await evaluate(from, READ_LOG, [here], [])) as [number, ...Buffer[]];
  if (entries.length === 0) return 0;
  const args = [id, ENDPOINT_LOG_SIZE, expiresInMs, ...entries];
  await evaluate(to, WRITE_LOG, [endpointsKey(userId, to.tag), there], args);
  const attempts = entries.filter((_, index) => index % 2 === 1);
  await evaluate(from, REMOVE_FROM_LOG, [here], attempts);
  return attempts.length;
}

/** Move what is left of a user's health. Of endpoints that do not exist, it is removed. Throws and waits like {@link moveRest}. */
export async function moveHealth(from: Place, to: Place, userId: string): Promise<void> {
  const { run = (work) => work() } = from;
  const key = healthKey(userId, from.tag);
  const fields = Object.entries(await run(() => from.valkey.hgetall(key))).flat();
  await evaluate(to, KEEP_HEALTH, userKeys(userId, to.tag).slice(0, 2), fields);
  await run(() => from.valkey.del(key));
}
