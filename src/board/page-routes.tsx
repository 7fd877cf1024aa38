/** @jsxImportSource hono/jsx */
/**
 * The board's own pages and their actions. JSX escapes everything shown; every action is a POST that redirects to a page
 * with one of a few fixed messages.
 */
import { type Context, Hono, type MiddlewareHandler } from "hono";
import { ContractError, jobData } from "../delivery/contract.ts";
import type { AttemptLog } from "../log/attempts.ts";
import { findUsersJob, readDeliveries } from "../log/deliveries.ts";
import { redeliver } from "../operations/redeliver.ts";
import { readSummary } from "../operations/summary.ts";
import { sendTestEvent } from "../operations/test-event.ts";
import type { Queue } from "../queue/worker.ts";
import type { Valkey } from "../valkey/connection.ts";
import { HomePage } from "./home-page.tsx";
import { ASSETS, type Notice, type Site, userPath } from "./layout.tsx";
import type { BoardLog } from "./log.ts";
import { needsValkey, refuse } from "./refusal.tsx";
import { UserPage } from "./user-page.tsx";

const DAY_SECONDS = 24 * 60 * 60;

/** Messages after an action. The URL carries only the key, so that a link cannot put its own text on a page. */
const NOTICES: Readonly<Record<string, Notice>> = {
  queued: { kind: "good", text: "Queued for delivery. The attempt will show up here." },
  pending: { kind: "wait", text: "It is already waiting or active, so nothing was changed." },
  gone: { kind: "bad", text: "That job is no longer kept, so nothing was sent." },
  test: { kind: "good", text: "Test event queued. The attempt will show up here." },
  broken: { kind: "bad", text: "That job's endpoint is invalid, so no test event was sent." },
};

export interface PageOptions {
  readonly site: Site;
  readonly queue: Queue;
  readonly valkey: Valkey;
  readonly log: Pick<AttemptLog, "list">;
  readonly boardLog: Pick<BoardLog, "action" | "refused">;
  /** Epoch ms. */
  readonly now: () => number;
}

/** Routes: `/`, `/users`, `/users/:userId`, actions and static files. */
export function createPageRoutes(options: PageOptions): Hono {
  const { site, queue, valkey, log, now } = options;
  const app = new Hono();
  const present = needsValkey(valkey, site);
  const noticeOf = (c: Context) => {
    const name = c.req.query("notice") ?? "";
    return Object.hasOwn(NOTICES, name) ? NOTICES[name] : undefined;
  };
  const page = (c: Context, content: unknown, status: 200 | 400 = 200) => {
    c.header("cache-control", "no-store");
    return c.html(`<!DOCTYPE html>${content}`, status);
  };

  for (const [path, { type, text }] of Object.entries(ASSETS)) {
    app.get(path, (c) => c.body(text, 200, { "content-type": type, "cache-control": `max-age=${DAY_SECONDS}` }));
  }

  const home = async (c: Context, { notice = noticeOf(c), search = "" }: { notice?: Notice; search?: string } = {}) => {
    const summary = await readSummary(queue, valkey, now());
    const content = <HomePage site={site} summary={summary} notice={notice} search={search} now={now()} />;
    return page(c, content, notice?.kind === "bad" ? 400 : 200);
  };
  const user = async (c: Context, given: string) => {
    const userId = jobData.shape.userId.safeParse(given.trim());
    if (!userId.success) {
      return await home(c, {
        notice: { kind: "bad", text: `Invalid user ID: ${userId.error.issues[0]?.message}.` },
        search: given,
      });
    }
    if (c.req.path === "/users" && userPath(userId.data).startsWith("/users/"))
      return c.redirect(userPath(userId.data));
    const deliveries = await readDeliveries({ queue, valkey, log }, userId.data, now());
    const notice = noticeOf(c);
    return page(c, <UserPage site={site} userId={userId.data} deliveries={deliveries} notice={notice} now={now()} />);
  };
  app.get("/", present, (c) => home(c));
  app.get("/users", present, (c) => user(c, c.req.query("id") ?? ""));
  app.get("/users/:userId", present, (c) => user(c, c.req.param("userId")));

  addActions(app, present, options);
  return app;
}

/** What operators can do to one job of one user. */
function addActions(app: Hono, present: MiddlewareHandler, { site, queue, boardLog, now }: PageOptions): void {
  const action = (
    name: string,
    act: (jobId: string, userId: string, eventId?: string) => Promise<{ notice: string; made?: string }>,
  ) => {
    app.post(`/actions/${name}`, present, async (c) => {
      if (site.isReadonly) {
        boardLog.refused(c, "readonly", { action: name });
        return await refuse(c, site, {
          status: 403,
          error: "refused: BOARD_READONLY is set",
          title: "This board is read-only",
          text: "BOARD_READONLY is set. Nothing was changed.",
        });
      }
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
      const path = userPath(userId);
      return c.redirect(`${path}${path.includes("?") ? "&" : "?"}notice=${notice}`, 303);
    });
  };
  action("redeliver", async (jobId, userId, eventId) => {
    if ((await findUsersJob(queue, jobId, userId, eventId)) === undefined) return { notice: "gone" };
    return { notice: await redeliver(queue, jobId) };
  });
  action("test", async (jobId, userId) => {
    try {
      const made = await sendTestEvent(queue, jobId, userId, now());
      return made === undefined ? { notice: "gone" } : { notice: "test", made };
    } catch (error) {
      if (error instanceof ContractError) return { notice: "broken" };
      throw error;
    }
  });
}
