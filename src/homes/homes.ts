/**
 * The shard that serves a user, for those who read and change endpoints: after a change of the number of shards, they move a user there
 * before anything else. For workers, see src/worker/homes.ts.
 */
import { endpointsKey } from "../queue/own-keys.ts";
import { formerHomeAmong, homeAmong, type Shard } from "../queue/shards.ts";
import { MOVED_FIELD, VERSION_FIELD } from "../registry/endpoint.ts";
import { EndpointsMoved } from "../registry/refusals.ts";
import { moveRest, moveUser, type Place } from "./move.ts";
import { describePast, pastHomesAmong, readPastCounts } from "./past-homes.ts";

type HomeShard = Place & Pick<Shard, "index" | "label" | "isDrained" | "before">;

/** How much to move. */
export interface MoveHomeOptions {
  /** What endpoints missed and their logs, too: it may be megabytes. Otherwise `fluxhook endpoints rehome` moves them. */
  readonly all?: boolean | undefined;
}

/**
 * Find the shard that serves a user, after moving their endpoints there if they may be where they were before a change of the number of
 * shards, or of one before it that has not ended. Asks Valkey only while the settings name such a change.
 *
 * @param shards  all that the settings name, with connections
 * @throws  EndpointsMoved when another shard has them, which is none of these; UnreadableEndpoints; when Valkey answers with an error. Waits
 *          while it is away
 */
export async function openHome<S extends HomeShard>(
  shards: readonly [S, ...S[]],
  userId: string,
  { all = false }: MoveHomeOptions = {},
): Promise<S> {
  const home = homeAmong(shards, userId);
  const former = formerHomeAmong(shards, userId);
  const [first] = shards;
  if (first.before === undefined && former === undefined) return home;
  const { run = (work) => work() } = first;
  const counts = await run(() => readPastCounts(first.valkey, shards));
  const formers = new Set([...(former === undefined ? [] : [former]), ...pastHomesAmong(shards, userId, counts)]);
  formers.delete(home);
  if (formers.has(undefined) && !(await isServedAt(home, userId))) {
    throw new EndpointsMoved("", counts.map(describePast).join("; "));
  }
  for (const one of formers) {
    if (one === undefined) continue;
    const { left } = await moveUser(shards, one, home, userId);
    if (all) await moveRest(one, home, userId, left);
  }
  return home;
}

async function isServedAt({ valkey, tag, run = (work) => work() }: Place, userId: string): Promise<boolean> {
  const [version, moved] = await run(() => valkey.hmget(endpointsKey(userId, tag), VERSION_FIELD, MOVED_FIELD));
  return typeof version === "string" && moved === null;
}
