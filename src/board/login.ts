/**
 * The board's login: HTTP Basic with one user and one password, and a delay after wrong guesses.
 */
import { createHash, timingSafeEqual } from "node:crypto";
import type { Context, MiddlewareHandler } from "hono";
import type { BoardLog } from "./log.ts";
import { LoginTries } from "./login-tries.ts";
import { networkOf } from "./visitor.ts";

const CHALLENGE = 'Basic realm="Fluxhook"';

export interface LoginOptions {
  readonly user: string;
  readonly password: string;
  readonly log: Pick<BoardLog, "visitor" | "refused">;
  /** Monotonic clock, ms. */
  readonly now: () => number;
}

/**
 * Require user and password; answer 401 otherwise.
 *
 * After ten different wrong passwords an address has to wait, from 1 s up to 1 min, and gets 429 until then, even with the
 * right password: otherwise guessing could go on during the wait. Other addresses are not affected.
 */
export function createLogin({ user, password, log, now }: LoginOptions): MiddlewareHandler {
  const expected = { user: digest(user), password: digest(password) };
  const tries = new LoginTries(now);
  return async (c, next) => {
    const given = c.req.header("authorization");
    if (given === undefined) return challenge(c);
    const network = networkOf(log.visitor(c).address);
    const attempt = digest(given).toString("base64");
    if (tries.isRepeated(network, attempt)) return challenge(c);
    const waitMs = tries.waitMs(network);
    if (waitMs > 0) {
      log.refused(c, "too_many_tries");
      const seconds = Math.ceil(waitMs / 1000);
      c.header("retry-after", String(seconds));
      if (isBrowser(c)) return c.html(barePage("Too many wrong passwords", `Try again in ${seconds} s.`), 429);
      return c.json({ error: "too many wrong passwords from this address" }, 429);
    }
    const credentials = parseBasic(given);
    // Digests have equal length, and both are always compared, so that timing reveals nothing about either.
    const isUser = timingSafeEqual(digest(credentials.user), expected.user);
    const isPassword = timingSafeEqual(digest(credentials.password), expected.password);
    if (isUser && isPassword) {
      c.set("operator", user);
      return await next();
    }
    tries.add(network, attempt);
    log.refused(c, "wrong_password");
    return challenge(c);
  };
}

function challenge(c: Context): Response | Promise<Response> {
  c.header("www-authenticate", CHALLENGE);
  if (!isBrowser(c)) return c.json({ error: "user and password required" }, 401);
  return c.html(barePage("Login required", "Reload this page to enter the user and the password."), 401);
}

const isBrowser = (c: Context): boolean => c.req.header("accept")?.includes("text/html") ?? false;

/** What a browser shows when the login is cancelled. Without styles, since those require the login as well. */
const barePage = (title: string, text: string): string => `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${title} · Fluxhook</title>
</head>
<body><main><h1>${title}</h1><p>${text}</p></main></body>
</html>`;

/** User and password of an Authorization header; empty when it is not Basic. */
function parseBasic(header: string): { user: string; password: string } {
  const [, encoded = ""] = /^Basic +([\w+/-]+=*)\s*$/i.exec(header) ?? [];
  const text = Buffer.from(encoded, "base64").toString("utf8");
  const colon = text.indexOf(":");
  return { user: text.slice(0, Math.max(0, colon)), password: text.slice(colon + 1) };
}

function digest(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}
