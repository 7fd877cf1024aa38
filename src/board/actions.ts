/**
 * What operators can do on the board's own pages to one job.
 */
import type { Context, Hono, MiddlewareHandler } from "hono";
import { ContractError } from "../delivery/contract.ts";
import { findUsersJob } from "../log/deliveries.ts";
import { redeliver } from "../operations/redeliver.ts";
import { sendTestEvent } from "../operations/test-event.ts";
import type { PageOptions } from "./page-response.ts";
import { refuse } from "./refusal.tsx";
import { pathOfSender } from "./user-filter.tsx";

/** What operators can do to one job of one user. */
export function addActions(app: Hono, present: MiddlewareHandler, { site, queue, boardLog, now }: PageOptions): void {
  const action = (
    name: string,
    act: (jobId: string, userId: string, eventId?: string) => Promise<{ notice: string; made?: string }>,
  ) => {
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
      const { notice, made } = await act(job, userId, typeof event === "string" ? event : undefined);
      boardLog.action(c, { action: name, user: userId, job, result: notice, made });
      const path = pathOfSender(c.req.header("referer"), userId);
      return c.redirect(`${path}${path.includes("?") ? "&" : "?"}notice=${notice}`, 303);
    });
  };
  action("redeliver", async (jobId, userId, eventId) => {
    if ((await findUsersJob(queue, jobId, userId, eventId)) === undefined) return { notice: "gone" };
    return { notice: await redeliver(queue, jobId) };
  });
  action("test", async (jobId, userId) => {
    try {
      const made = await sendTestEvent(queue, jobId, userId, now(), site.testEvent);
      return made === undefined ? { notice: "gone" } : { notice: "test", made };
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
