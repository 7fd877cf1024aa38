/**
 * The board's audit log: `board.action` for what an operator did, `board.refused` for what was refused. Each line has the
 * client's address and, if known, the operator.
 */
import type { Context } from "hono";
import type { Network } from "../dns/address.ts";
import type { Logger } from "../runtime/logger.ts";
import { readVisitor, type Visitor } from "./visitor.ts";

const WINDOW_MS = 60 * 1000; // 1 min
const MAX_LINES = 10; // refusals logged individually per window

/**
 * Why the board refused something.
 *
 * - `wrong_password`  user or password are wrong
 * - `too_many_tries`  too many wrong passwords from this address: it has to wait
 * - `foreign_site`    an action sent from another site's page
 * - `not_localhost`   no password is set, and the Host header is not localhost
 * - `readonly`        an action while BOARD_READONLY is set
 * - `not_allowed`     a Bull Board action that is disabled
 */
export type RefusalReason =
  | "wrong_password"
  | "too_many_tries"
  | "foreign_site"
  | "not_localhost"
  | "readonly"
  | "not_allowed";

export interface BoardLog {
  /** Who sent a request. */
  visitor(c: Context): Visitor;
  /** Log what an operator did. */
  action(c: Context, fields: object): void;
  /** The same for what ends after the request: who sent it is read at once. */
  later(c: Context): (fields: object) => void;
  /**
   * Log a refusal: at most ten lines a minute, one per address and reason. The rest are counted and reported at the end of
   * the minute in one line with `reason: "more"` and `counts`, so that nobody can flood the log from outside.
   */
  refused(c: Context, reason: RefusalReason, fields?: object): void;
}

export interface BoardLogOptions {
  readonly logger: Pick<Logger, "info" | "warn">;
  readonly trustProxy: readonly Network[];
  readonly windowMs?: number;
}

export function createBoardLog({ logger, trustProxy, windowMs = WINDOW_MS }: BoardLogOptions): BoardLog {
  const logged = new Set<string>();
  const counts = new Map<RefusalReason, number>();
  let isOpen = false;
  const visitor = (c: Context) => readVisitor({ request: c.req.raw, connection: c.env }, trustProxy);
  /** A proxy knows people by name; the login has one name for everyone. */
  const operatorOf = (c: Context, { name }: Visitor): string | undefined => name ?? c.get("operator");
  const close = () => {
    isOpen = false;
    logged.clear();
    if (counts.size > 0) logger.warn({ reason: "more", counts: Object.fromEntries(counts) }, "board.refused");
    counts.clear();
  };
  const later = (c: Context) => {
    const from = visitor(c);
    const by = { operator: operatorOf(c, from), address: from.address };
    return (fields: object) => logger.info({ ...fields, ...by }, "board.action");
  };
  return {
    visitor,
    action: (c, fields) => later(c)(fields),
    later,
    refused(c, reason, fields = {}) {
      if (!isOpen) setTimeout(close, windowMs).unref();
      isOpen = true;
      const from = visitor(c);
      const line = `${reason} ${from.address}`;
      if (logged.size >= MAX_LINES || logged.has(line)) {
        counts.set(reason, (counts.get(reason) ?? 0) + 1);
        return;
      }
      logged.add(line);
      logger.warn({ reason, ...fields, operator: operatorOf(c, from), address: from.address }, "board.refused");
    },
  };
}
