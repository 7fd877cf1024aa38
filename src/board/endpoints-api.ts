/**
 * The board's API: the registered endpoints of a user, without secrets.
 */
import { Hono } from "hono";
import { jobData } from "../delivery/contract.ts";
import { parseUrl } from "../delivery/endpoint-url.ts";
import { endpointName } from "../delivery/request.ts";
import { readMissedCounts } from "../missed/missed.ts";
import type { OpenShards } from "../queue/open-shard.ts";
import { homeAmong } from "../queue/shards.ts";
import { createRegistry, type EndpointWithHealth } from "../registry/registry.ts";
import type { Site } from "./layout.tsx";
import { awayFrom, needsShards, refuseAway } from "./refusal.tsx";

/** The route of the API, to be placed behind the login. */
export function createEndpointsApi({ site, shards }: { readonly site: Site; readonly shards: OpenShards }): Hono {
  const app = new Hono();
  app.get("/users/:userId/endpoints", needsShards(shards, site), async (c) => {
    const userId = jobData.shape.userId.safeParse(c.req.param("userId"));
    if (!userId.success) return c.json({ error: `userId: ${userId.error.issues[0]?.message}` }, 400);
    const home = homeAmong(shards, userId.data);
    if (awayFrom(c, shards).includes(home)) return await refuseAway(c, site, home);
    const { valkey, tag } = home;
    const endpoints = await createRegistry(valkey, { tag }).list(userId.data);
    const ids = endpoints.map(({ id }) => id);
    const missed = await readMissedCounts(valkey, tag, userId.data, ids);
    return c.json({
      endpoints: endpoints.map((endpoint) => {
        const { kept = 0, dropped = 0 } = missed.get(endpoint.id) ?? {};
        return { ...describe(endpoint), missed: { kept, dropped } };
      }),
    });
  });
  return app;
}

/** An endpoint with the API's names, and times in ISO 8601. */
function describe(endpoint: EndpointWithHealth) {
  const { id, description, events, rateLimit, headers, metadata, state, health, secrets } = endpoint;
  const url = parseUrl(endpoint.url);
  return {
    ...{ id, url: url === undefined ? null : endpointName(url), description, events, headers, metadata },
    rate_limit: rateLimit && { per_second: rateLimit.perSecond, burst: rateLimit.burst ?? 1 },
    state: state.kind,
    ...(state.kind !== "enabled" && { state_since: time(state.since) }),
    ...(state.kind === "disabled" && { reason: state.reason }),
    ...(endpoint.isDamaged && { is_damaged: true }),
    failures: health.failures,
    ...(health.failingSince !== undefined && { failing_since: time(health.failingSince) }),
    ...(health.lastSuccessAt !== undefined && { last_success_at: time(health.lastSuccessAt) }),
    secrets: secrets.map(({ createdAt, expiresAt }) => ({
      created_at: time(createdAt),
      ...(expiresAt !== undefined && { expires_at: time(expiresAt) }),
    })),
    created_at: time(endpoint.createdAt),
    updated_at: time(endpoint.updatedAt),
  };
}

const time = (epochMs: number): string | null =>
  Number.isFinite(epochMs) && Math.abs(epochMs) <= 8.64e15 ? new Date(epochMs).toISOString() : null;
