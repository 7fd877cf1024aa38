/** @jsxImportSource hono/jsx */
/**
 * The search: leads to what it found, or to a page with everything that it found.
 */
import type { Hono, MiddlewareHandler } from "hono";
import type { AllFailedEvents } from "../operations/failed-events.ts";
import { isCursor } from "../operations/log-search.ts";
import { createSearch } from "../operations/search.ts";
import { findPath } from "./find-path.ts";
import { type PageOptions, sendPage } from "./page-response.ts";
import { SearchPage } from "./search-page.tsx";

/** Add `/search?q=…`. */
export function addSearchRoutes(
  app: Hono,
  present: MiddlewareHandler,
  options: PageOptions,
  failed: AllFailedEvents,
): void {
  const { site, shards } = options;
  const search = createSearch({ shards, failed });
  app.get("/search", present, async (c) => {
    const { q = "", from = "" } = c.req.query();
    const findings = await search(q, { from: isCursor(from) ? from : undefined, among: c.get("shards") });
    const [find, ...others] = findings.finds;
    const path = find === undefined || others.length > 0 ? undefined : findPath(find);
    if (path !== undefined) return c.redirect(path);
    return sendPage(c, <SearchPage site={site} findings={findings} isContinued={isCursor(from)} now={Date.now()} />);
  });
}
