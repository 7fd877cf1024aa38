/** @jsxImportSource hono/jsx */
/**
 * How the board says no: a page to a browser, JSON to anything else.
 */
import type { Context, MiddlewareHandler } from "hono";
import { within } from "../runtime/deadline.ts";
import type { Valkey } from "../valkey/connection.ts";
import { Refusal, type Site } from "./layout.tsx";

const VALKEY_ANSWERS_MS = 1500; // 1.5 s: whoever asks gets its 503 within 2

/** A refusal in words. */
export interface Reason {
  readonly status: 400 | 403 | 404 | 500 | 503;
  /** What JSON says. */
  readonly error: string;
  /** What a page says, if more. */
  readonly title: string;
  readonly text: string;
}

/** Answer with the reason, in the form that was asked for. */
export function refuse(c: Context, site: Site, { status, error, title, text }: Reason): Response | Promise<Response> {
  if (!c.req.header("accept")?.includes("text/html")) return c.json({ error }, status);
  c.header("cache-control", "no-store");
  return c.html(`<!DOCTYPE html>${<Refusal site={site} title={title} text={text} />}`, status);
}

/**
 * 503 while Valkey does not answer. Asked first, not found out on the way: a command sent while it is away waits, and an
 * operator's click would take effect long after being told that it failed.
 */
export function needsValkey(valkey: Valkey, site: Site): MiddlewareHandler {
  return async (c, next) => {
    if ((await within(VALKEY_ANSWERS_MS, valkey.ping(), undefined)) !== undefined) return await next();
    return await refuse(c, site, {
      status: 503,
      error: "Valkey does not answer",
      title: "Valkey does not answer",
      text: "Queue and logs are kept there, so there is nothing to show, and nothing was changed. Workers go on as soon as it is back; reload this page then.",
    });
  };
}
