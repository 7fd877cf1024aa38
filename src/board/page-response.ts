/**
 * What the routes of all pages share.
 */
import type { Context } from "hono";
import type { AttemptLog } from "../log/attempts.ts";
import type { OpenShards } from "../queue/open-shard.ts";
import type { SecretKeeping } from "../registry/secrets.ts";
import type { Site } from "./layout.tsx";
import type { BoardLog } from "./log.ts";

/** What the board knows for changing registered endpoints. */
export interface RegistryAccess extends SecretKeeping {
  /** Those that endpoints may want. */
  readonly eventTypes: ReadonlySet<string>;
}

export interface PageOptions {
  readonly site: Site;
  /** All; a request's own are those that are there, see {@link needsShards}. */
  readonly shards: OpenShards;
  /** The users' logs in some shards as one. */
  readonly logOf: (shards: OpenShards) => Pick<AttemptLog, "list">;
  readonly registry: RegistryAccess;
  readonly boardLog: Pick<BoardLog, "action" | "later" | "refused">;
  /** Epoch ms. */
  readonly now: () => number;
}

/** Respond with a page. It shows customers' data, so it is not stored anywhere. */
export function sendPage(
  c: Context,
  content: unknown,
  status: 200 | 303 | 400 | 404 | 409 = 200,
): Response | Promise<Response> {
  c.header("cache-control", "no-store");
  return c.html(`<!DOCTYPE html>${content}`, status);
}
