/**
 * The shard that serves a user, for those who read and change endpoints: after a change of the number of shards, they move a user there
 * before anything else. For workers, see src/worker/homes.ts.
 */
import { formerHomeAmong, homeAmong, type Shard } from "../queue/shards.ts";
import { moveRest, moveUser, type Place } from "./move.ts";

type HomeShard = Place & Pick<Shard, "index" | "label" | "isDrained" | "before">;

/** How much to move. */
export interface MoveHomeOptions {
  /** What endpoints missed and their logs, too: it may be megabytes. Otherwise `fluxhook endpoints rehome` moves them. */
  readonly all?: boolean | undefined;
}

/**
 * Find the shard that serves a user, after moving their endpoints there if they may be where they were before a change of the number of
 * shards. Asks Valkey only while the settings name such a change.
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
  if (former === undefined) return home;
  const { left } = await moveUser(shards, former, home, userId);
  if (all) await moveRest(former, home, userId, left);
  return home;
}
