/** @jsxImportSource hono/jsx */
/**
 * The board's own pages. JSX escapes everything shown; every action is a POST that redirects to a page with one of a few fixed
 * messages.
 */
import { type Context, Hono, type MiddlewareHandler } from "hono";
import { jobData } from "../delivery/contract.ts";
import { createFailedEvents } from "../operations/failed-events.ts";
import { addActions } from "./actions.ts";
import { addEndpointActions } from "./endpoint-actions.tsx";
import { endpointNotice } from "./endpoint-path.ts";
import { addEndpointRoutes, hasEndpoints } from "./endpoint-routes.tsx";
import { addFailedRoutes } from "./failed-routes.tsx";
import { foundNotice } from "./find-path.ts";
import { HomePage } from "./home-page.tsx";
import { ASSETS, type Notice, userPath } from "./layout.tsx";
import { readOverview } from "./overview.ts";
import { type PageOptions, sendPage } from "./page-response.ts";
import { awayFrom, needsShards } from "./refusal.tsx";
import { addReleaseAction } from "./release-action.ts";
import { addSearchRoutes } from "./search-routes.tsx";
import { sendPayloadPage, sendUserPage } from "./user-routes.tsx";

const DAY_SECONDS = 24 * 60 * 60;

/** Messages after an action. The URL carries only the key, so that a link cannot put its own text on a page. */
const NOTICES: Readonly<Record<string, Notice>> = {
  queued: { kind: "good", text: "Queued for delivery. The attempt will show up here." },
  pending: { kind: "wait", text: "It is already waiting or active, so nothing was changed." },
  gone: { kind: "bad", text: "That job is no longer kept, so nothing was sent." },
  test: { kind: "good", text: "Test event queued. The attempt will show up here." },
  released: { kind: "good", text: "Released. Its events are being delivered." },
  unheld: { kind: "wait", text: "That is not held anymore, so nothing was changed." },
  broken: { kind: "bad", text: "That job's endpoint is invalid, so no test event was sent." },
};

/** Routes: `/`, `/users`, `/users/:userId`, `/search`, `/failed`, actions and static files. */
export function createPageRoutes(given: PageOptions): Hono {
  const { shards, now } = given;
  const site = { ...given.site }; // with what every page shows, as of the latest request
  const options = { ...given, site };
  const app = new Hono();
  const isPresent = needsShards(shards, given.site);
  const present: MiddlewareHandler = (c, next) =>
    isPresent(c, async () => {
      const [failed, hasAny] = await Promise.all([
        Promise.all(c.get("shards").map(({ client }) => client.getFailedCount())),
        hasEndpoints(c.get("shards")),
      ]);
      site.hasEndpoints = hasAny;
      site.failed = failed.reduce((sum, count) => sum + count);
      site.away = awayFrom(c, shards);
      await next();
    });
  const noticeOf = (c: Context) => {
    const name = c.req.query("notice") ?? "";
    return Object.hasOwn(NOTICES, name) ? NOTICES[name] : (endpointNotice(name) ?? foundNotice(c));
  };

  for (const [path, { type, text }] of Object.entries(ASSETS)) {
    app.get(path, (c) => c.body(text, 200, { "content-type": type, "cache-control": `max-age=${DAY_SECONDS}` }));
  }

  const home = async (c: Context, { notice = noticeOf(c), search = "" }: { notice?: Notice; search?: string } = {}) => {
    const overview = await readOverview(c.get("shards"), now(), site, awayFrom(c, shards));
    const content = <HomePage site={site} overview={overview} notice={notice} search={search} now={now()} />;
    return sendPage(c, content, notice?.kind === "bad" ? 400 : 200);
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
    return await sendUserPage(c, options, userId.data, noticeOf(c));
  };
  app.get("/", present, (c) => home(c));
  app.get("/users", present, (c) => user(c, c.req.query("id") ?? ""));
  app.get("/users/:userId", present, (c) => user(c, c.req.param("userId")));
  app.get("/users/:userId/events/:job", present, (c) =>
    sendPayloadPage(c, options, c.req.param("userId"), c.req.param("job")),
  );

  addActions(app, present, options);
  const failed = createFailedEvents(shards);
  addSearchRoutes(app, present, options, failed);
  addFailedRoutes(app, present, options, failed);
  addReleaseAction(app, present, options);
  addEndpointRoutes(app, present, options, noticeOf);
  addEndpointActions(app, present, options);
  return app;
}
