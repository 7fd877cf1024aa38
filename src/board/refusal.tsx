/** @jsxImportSource hono/jsx */
/**
 * Error responses of the board: a page for browsers, JSON for everything else.
 */
import type { Context, MiddlewareHandler } from "hono";
import { type OpenShard, type OpenShards, shardOfJob } from "../queue/open-shard.ts";
import { nameShards } from "../queue/shards.ts";
import { within } from "../runtime/deadline.ts";
import { troubleOf } from "../valkey/connection.ts";
import { Refusal, type Site } from "./layout.tsx";

declare module "hono" {
  interface ContextVariableMap {
    /** Those that answer, behind {@link needsShards}. */
    shards: OpenShards;
  }
}

const VALKEY_ANSWERS_MS = 1500; // 1.5 s, so that the 503 is sent within 2 s

/** What an error response says. */
export interface Reason {
  readonly status: 400 | 403 | 404 | 409 | 500 | 503;
  /** For JSON. */
  readonly error: string;
  /** For the page. */
  readonly title: string;
  readonly text: string;
  /** Where the page leads, besides the overview. */
  readonly back?: { readonly href: string; readonly text: string } | undefined;
}

/** Respond with a page or JSON, as the request accepts. */
export function refuse(
  c: Context,
  site: Site,
  { status, error, title, text, back }: Reason,
): Response | Promise<Response> {
  if (!c.req.header("accept")?.includes("text/html")) return c.json({ error }, status);
  c.header("cache-control", "no-store");
  return c.html(`<!DOCTYPE html>${<Refusal site={site} title={title} text={text} back={back} />}`, status);
}

/**
 * Ask which shards answer, and pass a request on to show those. It is refused while none does, or the first does not: there is
 * what all share, as what operators hold.
 *
 * Asked before the handler runs: commands queue up while Valkey is away, so an operator's click would take effect long
 * after they were told it failed.
 */
export function needsShards(shards: OpenShards, site: Site): MiddlewareHandler {
  const [first, ...others] = shards;
  return async (c, next) => {
    const [isThere, ...answers] = await Promise.all([
      within(VALKEY_ANSWERS_MS, first.valkey.ping(), undefined).then((pong) => pong !== undefined),
      ...others.map(isAnswering),
    ]);
    if (isThere) {
      c.set("shards", [first, ...others.filter((_, index) => answers[index])]);
      return await next();
    }
    return await refuse(c, site, {
      status: 503,
      error: "Valkey does not answer",
      title: "Valkey does not answer",
      text: "The queue and the logs are stored there, so there is nothing to show. Nothing was changed. Workers resume by themselves when it is back; reload this page then.",
    });
  };
}

/** Whether a shard answers now. Of one whose connection is lost, nothing is waited for. */
async function isAnswering({ valkey }: OpenShard): Promise<boolean> {
  if (troubleOf(valkey) !== undefined) return false;
  const pong = valkey.ping().catch(() => undefined);
  return (await within(VALKEY_ANSWERS_MS, pong, undefined)) !== undefined;
}

/** The shards that did not answer this request. */
export const awayFrom = (c: Context, shards: OpenShards): OpenShard[] =>
  shards.filter((shard) => !c.get("shards").includes(shard));

/** Refuse what needs a shard that is away. */
export function refuseAway(c: Context, site: Site, shard: OpenShard): Response | Promise<Response> {
  const name = nameShards([shard]);
  return refuse(c, site, {
    status: 503,
    error: `${name} does not answer`,
    title: `${name.replace("s", "S")} does not answer`,
    text: "What this needs is stored there. Nothing was changed. Try again when it is back.",
  });
}

/**
 * Find a job's shard and its id there by its name.
 *
 * @returns a refusal when that shard is away; undefined when there is no such shard
 */
export function locateJob(c: Context, { site, shards }: { site: Site; shards: OpenShards }, name: string) {
  const found = shardOfJob(shards, name);
  if (found === undefined || c.get("shards").includes(found.shard)) return found;
  return refuseAway(c, site, found.shard);
}
