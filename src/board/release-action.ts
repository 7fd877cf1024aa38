/**
 * The action that releases what is held.
 */
import type { Hono, MiddlewareHandler } from "hono";
import { holdPlacesOf, release } from "../operations/hold.ts";
import { userPath } from "./layout.tsx";
import type { PageOptions } from "./page-response.ts";
import { refuse } from "./refusal.tsx";

const NAME = "release";

/** `POST /actions/release` with `hold`, a hold's id, and `user` if the form is on that user's page. */
export function addReleaseAction(app: Hono, present: MiddlewareHandler, options: PageOptions): void {
  const { site, boardLog, now } = options;
  app.post(`/actions/${NAME}`, present, async (c) => {
    if (site.isReadonly) {
      boardLog.refused(c, "readonly", { action: NAME });
      return await refuse(c, site, {
        status: 403,
        error: "refused: BOARD_READONLY is set",
        title: "This board is read-only",
        text: "BOARD_READONLY is set. Nothing was changed.",
      });
    }
    const { hold: id, user } = await c.req.parseBody().catch(() => ({}) as Record<string, unknown>);
    if (typeof id !== "string" || id === "") {
      return await refuse(c, site, {
        status: 400,
        error: "expected a form with hold",
        title: "Incomplete form",
        text: "Expected a form with a hold. Nothing was changed.",
      });
    }
    const [released] = await release(holdPlacesOf(c.get("shards")), { id }, now());
    const notice = released === undefined ? "unheld" : "released";
    const { kind, name } = released ?? {};
    boardLog.action(c, { action: NAME, hold: id, kind, target: name, result: notice });
    const path = typeof user === "string" && user !== "" ? userPath(user) : "/";
    return c.redirect(`${path}${path.includes("?") ? "&" : "?"}notice=${notice}`, 303);
  });
}
