/**
 * Shows what is known of a registered endpoint, for operators.
 */
import { openHome } from "../homes/homes.ts";
import type { Attempt } from "../log/attempts.ts";
import { type MissedCounts, readMissedCounts } from "../missed/missed.ts";
import type { OpenShards } from "../queue/open-shard.ts";
import { createRegistry, type EndpointWithHealth } from "../registry/registry.ts";
import { ENDPOINT_LOG_SIZE, readEndpointLog } from "../streaks/endpoint-log.ts";

export { ENDPOINT_LOG_SIZE };

const NOTHING_MISSED: MissedCounts = { kept: 0, dropped: 0, bytes: 0 };

/** What is known of an endpoint. */
export interface EndpointDetails {
  readonly userId: string;
  readonly endpoint: EndpointWithHealth;
  readonly missed: MissedCounts;
  /** Its last {@link ENDPOINT_LOG_SIZE}, newest first. Without secrets. */
  readonly attempts: readonly Attempt[];
}

/**
 * Read what is known of an endpoint.
 *
 * @throws  UsageError when an id is invalid; NotFoundError when there is no such endpoint; when Valkey answers with an error. Waits
 *          while it is away
 */
export async function showEndpoint(shards: OpenShards, userId: string, id: string): Promise<EndpointDetails> {
  const { valkey, tag } = await openHome(shards, userId, { all: true });
  const [endpoint, counts, attempts] = await Promise.all([
    createRegistry(valkey, { tag }).get(userId, id),
    readMissedCounts(valkey, tag, userId, [id]),
    readEndpointLog(valkey, tag, userId, id),
  ]);
  return { userId, endpoint, missed: counts.get(id) ?? NOTHING_MISSED, attempts };
}
