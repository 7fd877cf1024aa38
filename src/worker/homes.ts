/**
 * Which shard serves a user: forwards jobs there. After a change of the number of shards that may be the old home, until somebody who knows the
 * new number moves the user, see src/homes/move.ts. Workers move nobody: backends with the old number can go on until then.
 */
import type { Forward } from "../../jobs/home.ts";
import { countForwards } from "../delivery/forwarded-id.ts";
import type { FindEndpoints, Wanted } from "../endpoints/lookup.ts";
import type { UsersEndpoints } from "../endpoints/memory.ts";
import { moveUser, type Place } from "../homes/move.ts";
import { describePast, pastHomesAmong, readPastCounts } from "../homes/past-homes.ts";
import { addForwarded } from "../queue/forward.ts";
import { endpointsKey } from "../queue/own-keys.ts";
import { formerHomeAmong, homeAmong, type Shard, shardName } from "../queue/shards.ts";
import { Parked } from "../queue/worker.ts";
import { MOVED_FIELD, VERSION_FIELD } from "../registry/endpoint.ts";
import { EndpointsMoved, UnreadableEndpoints } from "../registry/refusals.ts";
import { troubleOf, type Valkey } from "../valkey/connection.ts";
import { codeOf } from "../valkey/refusals.ts";

type HomeShard = Omit<Shard, "url">;

/** All shards, with connections to them whose commands fail where those for the queue wait. */
export interface Homes {
  readonly shards: readonly [HomeShard, ...HomeShard[]];
  /** A shard's connection. */
  readonly connect: (shard: Pick<Shard, "queue">) => Valkey;
}

/** The shard whose jobs are forwarded, and the connection of its worker. */
type OwnShard = Pick<Shard, "queue" | "tag"> & { readonly valkey: Valkey };

/** Ask another shard. @throws Parked while it does not answer */
type Reach = <T>(shard: Pick<Shard, "queue">, valkey: Valkey, work: () => Promise<T>) => Promise<T>;

interface HomesLogger {
  warn(fields: object, message: string): void;
}

/** Forwards of one job: more mean that workers with different settings pass it back and forth. */
const MAX_FORWARDS = 4;
const REACH_MS = 2 * 1000; // 2 s for another shard's Valkey to answer
const AWAY_MS = 5 * 1000; // 5 s until a job is forwarded again to a shard that did not
const JITTER = 0.2;
const WARN_EVERY_MS = 60 * 1000; // 1 min

/** The lookup of a shard that knows of those before, and what forwards the jobs of users whom another shard serves. */
export interface AtHome {
  readonly findEndpoints: FindEndpoints;
  readonly forward: Forward;
}

/** Create it for a shard. `forwarded` is called for each job. With one shard, it adds nothing to the lookup. */
export function createAtHome(
  own: OwnShard,
  { shards, connect }: Homes,
  find: FindEndpoints,
  { logger, forwarded }: { readonly logger: HomesLogger; readonly forwarded: () => void },
): AtHome {
  const reach = createReach(logger);
  const isOwn = ({ queue }: Pick<Shard, "queue">) => queue === own.queue;

  /** Whether the user's endpoints are in this shard now. One command. */
  async function isServedHere(userId: string): Promise<boolean> {
    const [version, moved] = await readMove(own.valkey, endpointsKey(userId, own.tag)).catch(() => [null, null]);
    return typeof version === "string" && moved === null;
  }

  /** Where a job goes whose user is not served here: first to the old home, as long as there is one. */
  function nextOf(userId: string, movedTo: string | undefined): Pick<Shard, "queue" | "label"> | undefined {
    if (movedTo !== undefined) return shards.find(({ queue }) => queue === movedTo);
    const former = formerHomeAmong(shards, userId);
    return former === undefined || isOwn(former) ? homeAmong(shards, userId) : former;
  }

  async function forwardAway(userId: string, id: string, movedTo: string | undefined) {
    if (movedTo === undefined && (await isServedHere(userId))) return undefined; // not moved yet: no other shard changes them
    const next = nextOf(userId, movedTo);
    if (next === undefined || isOwn(next) || countForwards(id) >= MAX_FORWARDS) throw new Parked(later());
    const valkey = connect(next);
    await reach(next, valkey, () => addForwarded(own, { queue: next.queue, valkey }, id));
    forwarded();
    return `forwarded to shard ${shardName(next)}`;
  }

  const forward: Forward = (userId, { id = "" }, movedTo) =>
    movedTo === undefined && isOwn(homeAmong(shards, userId)) ? undefined : forwardAway(userId, id, movedTo);

  const askFormer = createFormerHomes(own, { shards, connect }, reach, logger);

  async function findHere(userId: string, wanted: Wanted): Promise<UsersEndpoints | EndpointsMoved> {
    try {
      return await find(userId, wanted);
    } catch (error) {
      if (error instanceof EndpointsMoved) return error;
      throw error;
    }
  }

  /** Look a user up, and again if they may have moved here meanwhile. @throws EndpointsMoved when another shard serves them */
  const findEndpoints: FindEndpoints = async (userId, wanted) => {
    const found = await findHere(userId, wanted);
    const isElsewhere = found instanceof EndpointsMoved;
    const { id } = wanted;
    const isNothing = isElsewhere || (id === undefined ? found.version === "" : !found.endpoints.has(id));
    if (isNothing && (await askFormer(userId))) return await find(userId, { id, isAnew: true });
    if (isElsewhere) throw found;
    return found;
  };

  return { forward, findEndpoints: shards.length === 1 ? find : findEndpoints };
}

/**
 * Make the function that asks the old homes of a user whose home this shard is, and who is not served here. It resolves with whether the user
 * may have moved here meanwhile. What a process that died has begun to move arrives.
 *
 * @throws  EndpointsMoved when an old home still serves the user; Parked when one may that is not known
 */
function createFormerHomes(own: OwnShard, { shards, connect }: Homes, reach: Reach, logger: HomesLogger) {
  const places = () => shards.map((shard) => ({ queue: shard.queue, tag: shard.tag, valkey: connect(shard) }));
  const isPlaceOf = (queue: string) => (place: Place) => place.queue === queue;
  const [first] = shards;
  let warnedAt = Number.NEGATIVE_INFINITY;

  async function askOne(former: HomeShard, userId: string): Promise<boolean> {
    const valkey = connect(former);
    return await reach(former, valkey, async () => {
      const [version, moved] = await readMove(valkey, endpointsKey(userId, former.tag));
      if (version !== null && moved === null) throw new EndpointsMoved(former.queue);
      if (moved?.includes(" ") === true) {
        const all = places();
        const from = all.find(isPlaceOf(former.queue)) as Place;
        await moveUser(all, from, all.find(isPlaceOf(own.queue)) as Place, userId);
      }
      return moved !== null;
    });
  }

  function waitFor(counts: readonly number[]): never {
    if (Date.now() - warnedAt > WARN_EVERY_MS) {
      warnedAt = Date.now();
      logger.warn({ reason: counts.map(describePast).join("; ") }, "endpoints.unmoved");
    }
    throw new Parked(later());
  }

  return async (userId: string): Promise<boolean> => {
    if (homeAmong(shards, userId).queue !== own.queue) return false;
    const former = formerHomeAmong(shards, userId);
    if (former !== undefined && (await askOne(former, userId))) return true;
    const counts = await reach(first, connect(first), () => readPastCounts(connect(first), shards));
    const past = pastHomesAmong(shards, userId, counts);
    let mayHaveMoved = false;
    for (const one of past) {
      if (one === undefined || one.queue === own.queue || one === former) continue;
      mayHaveMoved ||= await askOne(one, userId);
    }
    if (past.has(undefined) && !mayHaveMoved) waitFor(counts);
    return mayHaveMoved;
  };
}

async function readMove(valkey: Valkey, key: string): Promise<(string | null)[]> {
  try {
    return await valkey.hmget(key, VERSION_FIELD, MOVED_FIELD);
  } catch (error) {
    if (codeOf(error as Error) !== "WRONGTYPE") throw error;
    throw new UnreadableEndpoints("what is stored of this user's endpoints is not readable");
  }
}

const later = (): number => Date.now() + AWAY_MS * (1 + JITTER * Math.random());

/**
 * Make the function that asks another shard: jobs wait while it does not answer, without a slot. It is left alone for a while after
 * that, so that they do not take the slots of those that could go.
 */
function createReach(logger: HomesLogger): Reach {
  const awayUntil = new Map<string, number>(); // by queue, epoch ms
  let warnedAt = Number.NEGATIVE_INFINITY;
  return async ({ queue }, valkey, work) => {
    if (troubleOf(valkey) !== undefined || (awayUntil.get(queue) ?? 0) > Date.now()) throw new Parked(later());
    try {
      return await beforeDeadline(work());
    } catch (error) {
      if (error instanceof EndpointsMoved || error instanceof UnreadableEndpoints) throw error;
      awayUntil.set(queue, Date.now() + AWAY_MS);
      if (Date.now() - warnedAt > WARN_EVERY_MS) {
        logger.warn({ queue, reason: (error as Error).message }, "shard.unreached");
        warnedAt = Date.now();
      }
      throw new Parked(later());
    }
  };
}

async function beforeDeadline<T>(work: Promise<T>): Promise<T> {
  let timer: Timer | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${REACH_MS} ms`)), REACH_MS);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
