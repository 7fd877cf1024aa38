/** @jsxImportSource hono/jsx */
/**
 * What operators can do on the board to a registered endpoint.
 */
import type { Context, Hono, MiddlewareHandler } from "hono";
import { ENDPOINT_ID, USER_ID } from "../delivery/limits.ts";
import { openHome } from "../homes/homes.ts";
import { replayMissed } from "../missed/replay.ts";
import { testEndpoint } from "../operations/endpoint-test.ts";
import type { OpenShard } from "../queue/open-shard.ts";
import { ConflictError, LimitError, NotFoundError } from "../registry/refusals.ts";
import { createRegistry, type Registry } from "../registry/registry.ts";
import { refuseReadonly } from "./actions.ts";
import { GRACES } from "./endpoint-forms.tsx";
import { NewSecretPage } from "./endpoint-page.tsx";
import { endpointPath, replayNotice } from "./endpoint-path.ts";
import { type PageOptions, sendPage } from "./page-response.ts";
import { refuse, refuseAway } from "./refusal.tsx";
import { awayHome } from "./user-home.ts";

interface Target {
  readonly c: Context;
  readonly home: OpenShard;
  readonly registry: Registry;
  readonly userId: string;
  readonly id: string;
  /** The form's. */
  readonly fields: Readonly<Record<string, unknown>>;
}

/** The name of the message to show on the endpoint's page, or a response instead of that page. */
interface Result {
  readonly notice: string;
  readonly response?: Response;
  /** For the log. */
  readonly details?: object;
}

/** `POST /actions/endpoint-<action>` with `user` and `endpoint`. */
export function addEndpointActions(app: Hono, present: MiddlewareHandler, options: PageOptions): void {
  const { site, shards, boardLog } = options;
  const { eventTypes, secretKeys, allowPlain } = options.registry;
  const action = (name: string, act: (target: Target) => Promise<Result>) => {
    app.post(`/actions/endpoint-${name}`, present, async (c) => {
      if (site.isReadonly) return await refuseReadonly(c, { site, boardLog }, `endpoint-${name}`);
      const fields = await c.req.parseBody().catch(() => ({}) as Record<string, unknown>);
      const { user: userId, endpoint: id } = fields;
      if (typeof userId !== "string" || !USER_ID.test(userId) || typeof id !== "string" || !ENDPOINT_ID.test(id)) {
        return await refuseForm(c, options);
      }
      const away = awayHome(c, shards, userId);
      if (away !== undefined) return await refuseAway(c, site, away);
      const home = await openHome(shards, userId, { all: true });
      const registry = createRegistry(home.valkey, { tag: home.tag, eventTypes, secretKeys, allowPlain });
      const done = await tried(() => act({ c, home, registry, userId, id, fields }));
      if (done === undefined) return await refuseForm(c, options, endpointPath(userId, id));
      const { notice, response, details } = done;
      const said = { action: `endpoint-${name}`, user: userId, endpoint: id, result: notice };
      boardLog.action(c, { ...said, ...details });
      return response ?? c.redirect(endpointPath(userId, id, "", { notice }), 303);
    });
  };
  for (const [name, notice] of [
    ["pause", "paused"],
    ["resume", "resumed"],
    ["disable", "disabled"],
  ] as const) {
    action(name, async ({ registry, userId, id }) => {
      await registry[name](userId, id);
      return { notice };
    });
  }
  action("enable", async (target) => {
    await target.registry.enable(target.userId, target.id);
    return target.fields.replay === "all" ? await replay(target) : { notice: "enabled" };
  });
  action("replay", replay);
  action("test", async ({ userId, id }) => {
    const { job } = await testEndpoint(shards, userId, id, { type: site.testEvent, waitMs: 0 });
    return { notice: "tested", details: { made: job } };
  });
  action("rotate", (target) => rotate(target, options));
}

/** What an action did, or why the registry refused it; undefined when the form was wrong. */
async function tried(act: () => Promise<Result>): Promise<Result | undefined> {
  try {
    return await act();
  } catch (error) {
    if (error instanceof ConflictError) return { notice: "conflict" };
    if (error instanceof LimitError) return { notice: "secrets" };
    if (error instanceof NotFoundError) return { notice: "missing" }; // the endpoint's page says so
    if (error instanceof FormError) return undefined;
    throw error;
  }
}

class FormError extends Error {}

/** An optional time of a form, epoch ms. */
function timeOf(field: unknown): number | undefined {
  if (field === undefined || field === "") return undefined;
  if (typeof field !== "string" || !/^\d{1,15}$/.test(field)) throw new FormError();
  return Number(field);
}

async function replay({ home, userId, id, fields }: Target): Promise<Result> {
  const query = { since: timeOf(fields.since), until: timeOf(fields.until) };
  const { replayed, skipped, left } = await replayMissed(home, userId, id, query);
  return { notice: replayNotice({ replayed, skipped, left }), details: { ...query, replayed, skipped, left } };
}

/** The version keeps a form that is sent again, as by a reload of its page, from rotating once more. */
async function rotate({ c, registry, userId, id, fields }: Target, { site, registry: keeping }: PageOptions) {
  if (keeping.secretKeys.length === 0 && !keeping.allowPlain) return { notice: "no-key" };
  const { version, grace } = fields;
  const found = GRACES.find(([seconds]) => String(seconds) === grace);
  if (typeof version !== "string" || version === "" || found === undefined) throw new FormError();
  const [graceSeconds] = found;
  const { endpoint, secret } = await registry.rotate(userId, id, { ifVersion: version, graceSeconds });
  const response = await sendPage(c, <NewSecretPage {...{ site, userId, endpoint, secret }} />);
  return { notice: "rotated", details: { graceSeconds }, response };
}

/** @param path  of the endpoint's page, if the form names one */
function refuseForm(c: Context, { site }: PageOptions, path?: string): Response | Promise<Response> {
  return refuse(c, site, {
    status: 400,
    error: "expected a form of the endpoint's page",
    title: "Incomplete form",
    text: "Expected a form of the endpoint's page. Nothing was changed.",
    back: path === undefined ? undefined : { href: path, text: "Back to the endpoint" },
  });
}
