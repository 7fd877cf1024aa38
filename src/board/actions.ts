/**
 * What operators can do on the board's own pages to one job.
 */
import type { Context, Hono, MiddlewareHandler } from "hono";
import { ContractError } from "../delivery/contract.ts";
import { findUsersJob } from "../log/deliveries.ts";
import { redeliver } from "../operations/redeliver.ts";
import { sendTestEvent } from "../operations/test-event.ts";
import type { OpenShard } from "../queue/open-shard.ts";
import type { PageOptions } from "./page-response.ts";
import { locateJob, refuse } from "./refusal.tsx";
import { pathOfSender } from "./user-filter.tsx";

interface Place {
  readonly shard: OpenShard;
  /** The job's id there. */
  readonly id: string;
}

interface Result {
  readonly notice: string;
  /** The name of the job that it made. */
  readonly made?: string;
}

/** What operators can do to one job of one user. */
export function addActions(app: Hono, present: MiddlewareHandler, options: PageOptions): void {
  const { site, boardLog, now } = options;
  const action = (name: string, act: (at: Place, userId: string, eventId?: string) => Promise<Result>) => {
    app.post(`/actions/${name}`, present, async (c) => {
      if (site.isReadonly) return await refuseReadonly(c, { site, boardLog }, name);
      const { user: userId, job, event } = await c.req.parseBody().catch(() => ({}) as Record<string, unknown>);
      if (typeof userId !== "string" || typeof job !== "string" || job === "") {
        return await refuse(c, site, {
          status: 400,
          error: "expected a form with user and job",
          title: "Incomplete form",
          text: "Expected a form with a user and a job. Nothing was changed.",
        });
      }
      const at = await locateJob(c, options, job);
      if (at instanceof Response) return at;
      const eventId = typeof event === "string" ? event : undefined;
      const { notice, made }: Result = at === undefined ? { notice: "gone" } : await act(at, userId, eventId);
      boardLog.action(c, { action: name, user: userId, job, result: notice, made });
      const path = pathOfSender(c.req.header("referer"), userId);
      return c.redirect(`${path}${path.includes("?") ? "&" : "?"}notice=${notice}`, 303);
    });
  };
  action("redeliver", async ({ shard: { client }, id }, userId, eventId) => {
    if ((await findUsersJob(client, id, userId, eventId)) === undefined) return { notice: "gone" };
    return { notice: await redeliver(client, id) };
  });
  action("test", async ({ shard, id }, userId) => {
    try {
      const made = await sendTestEvent(shard, id, userId, now(), site.testEvent);
      return made === undefined ? { notice: "gone" } : { notice: "test", made: shard.label + made };
    } catch (error) {
      if (error instanceof ContractError) return { notice: "broken" };
      throw error;
    }
  });
}

/** Refuse an action on a read-only board, and log that. */
export function refuseReadonly(
  c: Context,
  { site, boardLog }: Pick<PageOptions, "site" | "boardLog">,
  action: string,
): Response | Promise<Response> {
  boardLog.refused(c, "readonly", { action });
  return refuse(c, site, {
    status: 403,
    error: "refused: BOARD_READONLY is set",
    title: "This board is read-only",
    text: "BOARD_READONLY is set. Nothing was changed.",
  });
}
