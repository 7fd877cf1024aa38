/**
 * The board's login: HTTP Basic, one user, one password, and a wait for whoever guesses.
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
  /** ms of a clock that never goes back. */
  readonly now: () => number;
}

/**
 * Let pass who has user and password; the rest gets 401. After ten different wrong ones an address has to wait, 1 s at first and
 * 1 min at last, and gets 429 meanwhile without being looked at, right or wrong: else the wait would be none. Other addresses
 * notice nothing.
 */
export function createLogin({ user, password, log, now }: LoginOptions): MiddlewareHandler {
  const expected = { user: digest(user), password: digest(password) };
  const tries = new LoginTries(now);
  return async (c, next) => {
    const given = c.req.header("authorization");
    if (given === undefined) return challenge(c);
    const place = networkOf(log.visitor(c).address);
    const attempt = digest(given).toString("base64");
    if (tries.isRepeated(place, attempt)) return challenge(c);
    const waitMs = tries.waitMs(place);
    if (waitMs > 0) {
      log.refused(c, "too_many_tries");
      c.header("retry-after", String(Math.ceil(waitMs / 1000)));
      return c.json({ error: "too many wrong passwords from this address" }, 429);
    }
    const credentials = parseBasic(given);
    // Digests of equal length, and always both of them, so that time tells nothing about either.
    const isUser = timingSafeEqual(digest(credentials.user), expected.user);
    const isPassword = timingSafeEqual(digest(credentials.password), expected.password);
    if (isUser && isPassword) {
      c.set("operator", user);
      return await next();
    }
    tries.add(place, attempt);
    log.refused(c, "wrong_password");
    return challenge(c);
  };
}

function challenge(c: Context): Response {
  c.header("www-authenticate", CHALLENGE);
  return c.json({ error: "user and password required" }, 401);
}

/** User and password of an Authorization header; those of nobody when it has none. */
function parseBasic(header: string): { user: string; password: string } {
  const [, encoded = ""] = /^Basic +([\w+/-]+=*)\s*$/i.exec(header) ?? [];
  const text = Buffer.from(encoded, "base64").toString("utf8");
  const colon = text.indexOf(":");
  return { user: text.slice(0, Math.max(0, colon)), password: text.slice(colon + 1) };
}

function digest(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}
