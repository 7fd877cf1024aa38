/**
 * The board's API: the attempts of a user, and its description.
 */
import { Hono } from "hono";
import { jobData } from "../delivery/contract.ts";
import { type AttemptQuery, findQueryProblems, QUERY_FIELDS } from "../log/attempt-query.ts";
import type { AttemptLog } from "../log/attempts.ts";
import type { OpenShards } from "../queue/open-shard.ts";
import { homeAmong, shardName } from "../queue/shards.ts";
import type { Site } from "./layout.tsx";
import openApi from "./openapi.json" with { type: "json" };
import { awayFrom, needsShards, refuseAway } from "./refusal.tsx";

const DEFAULT_LIMIT = 100; // attempts
const PARAMETERS = [...QUERY_FIELDS, "include"];

export interface AttemptsApiOptions {
  readonly site: Site;
  readonly shards: OpenShards;
  /** The users' logs in some shards as one. */
  readonly logOf: (shards: OpenShards) => Pick<AttemptLog, "list">;
  /** Epoch ms. */
  readonly now: () => number;
}

/** The routes of the API, to be placed behind the login. */
export function createAttemptsApi({ site, shards, logOf, now }: AttemptsApiOptions): Hono {
  const app = new Hono();
  app.get("/openapi.json", (c) => c.json(openApi));
  app.get("/users/:userId/attempts", needsShards(shards, site), async (c) => {
    const userId = jobData.shape.userId.safeParse(c.req.param("userId"));
    const { query, withResponses, problems } = readParameters(c.req.queries());
    if (!userId.success) problems.unshift(`userId: ${userId.error.issues[0]?.message}`);
    if (!userId.success || problems.length > 0) return c.json({ error: problems.join("; ") }, 400);
    const away = awayFrom(c, shards);
    const home = homeAmong(shards, userId.data);
    if (away.includes(home)) return await refuseAway(c, site, home);
    const { limit = DEFAULT_LIMIT } = query;
    const found = await logOf(c.get("shards")).list(userId.data, now(), { ...query, limit: limit + 1, withResponses });
    const attempts = found.slice(0, limit);
    return c.json({
      attempts,
      ...(found.length > limit && { next: attempts.at(-1)?.delivery }),
      ...(away.length > 0 && { missing_shards: away.map(shardName) }),
    });
  });
  return app;
}

/** Unknown parameters are refused: a filter that is misspelled would return everything. */
function readParameters(given: Readonly<Record<string, string[]>>) {
  const problems = Object.entries(given).flatMap(([name, values]) => {
    if (!PARAMETERS.includes(name)) return [`${name}: not a parameter; expected one of ${PARAMETERS.join(", ")}`];
    return values.length > 1 ? [`${name}: expected it once`] : [];
  });
  const values = Object.fromEntries(Object.entries(given).map(([name, [value]]) => [name, value]));
  const { include, limit, ...texts } = values;
  const query = {
    ...texts,
    ...(limit !== undefined && { limit: /^\d{1,4}$/.test(limit) ? Number(limit) : Number.NaN }),
  };
  problems.push(...findQueryProblems(query));
  if (include !== undefined && include !== "response") problems.push("include: expected response");
  return { query: query as AttemptQuery, withResponses: include === "response", problems };
}
