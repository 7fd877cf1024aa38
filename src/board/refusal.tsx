/** @jsxImportSource hono/jsx */
/**
 * Error responses of the board: a page for browsers, JSON for everything else.
 */
import type { Context, MiddlewareHandler } from "hono";
import { within } from "../runtime/deadline.ts";
import type { Valkey } from "../valkey/connection.ts";
import { Refusal, type Site } from "./layout.tsx";

const VALKEY_ANSWERS_MS = 1500; // 1.5 s, so that the 503 is sent within 2 s

/** What an error response says. */
export interface Reason {
  readonly status: 400 | 403 | 404 | 409 | 500 | 503;
  /** For JSON. */
  readonly error: string;
  /** For the page. */
  readonly title: string;
  readonly text: string;
}

/** Respond with a page or JSON, as the request accepts. */
export function refuse(c: Context, site: Site, { status, error, title, text }: Reason): Response | Promise<Response> {
  if (!c.req.header("accept")?.includes("text/html")) return c.json({ error }, status);
  c.header("cache-control", "no-store");
  return c.html(`<!DOCTYPE html>${<Refusal site={site} title={title} text={text} />}`, status);
}

/**
 * Answer 503 while Valkey does not respond.
 *
 * Checked before the handler runs: commands queue up while Valkey is away, so an operator's click would take effect long
 * after they were told it failed.
 */
export function needsValkey(valkey: Valkey, site: Site): MiddlewareHandler {
  return async (c, next) => {
    if ((await within(VALKEY_ANSWERS_MS, valkey.ping(), undefined)) !== undefined) return await next();
    return await refuse(c, site, {
      status: 503,
      error: "Valkey does not answer",
      title: "Valkey does not answer",
      text: "The queue and the logs are stored there, so there is nothing to show. Nothing was changed. Workers resume by themselves when it is back; reload this page then.",
    });
  };
}
