/**
 * What the board says about its visitors: `board.action` for what was done, `board.refused` for what was not. Each names the
 * address, and the operator where one is known.
 */
import type { Context } from "hono";
import type { Network } from "../dns/address.ts";
import type { Logger } from "../runtime/logger.ts";
import { readVisitor, type Visitor } from "./visitor.ts";

const WINDOW_MS = 60 * 1000; // 1 min
const TOLD = 10; // refusals in one window that have a line of their own

/**
 * Why the board refused something.
 *
 * - `wrong_password`  user or password are wrong
 * - `too_many_tries`  wrong ones came from this address, so it has to wait
 * - `foreign_site`    an action that another site's page asked for
 * - `not_localhost`   without a password, the board was asked for by another name than this machine's
 * - `readonly`        an action, while BOARD_READONLY is set
 * - `not_allowed`     an action of Bull Board that is off
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
  /** Tell what an operator did. */
  action(c: Context, fields: object): void;
  /**
   * Tell what was refused: ten lines a minute, one for each address and reason. All others are counted, and told at the end of the
   * minute by one line with `reason: "more"` and `counts`, so that nobody fills the log from outside.
   */
  refused(c: Context, reason: RefusalReason, fields?: object): void;
}

export interface BoardLogOptions {
  readonly logger: Pick<Logger, "info" | "warn">;
  readonly trustProxy: readonly Network[];
  readonly windowMs?: number;
}

export function createBoardLog({ logger, trustProxy, windowMs = WINDOW_MS }: BoardLogOptions): BoardLog {
  const told = new Set<string>();
  const counts = new Map<RefusalReason, number>();
  let isOpen = false;
  const visitor = (c: Context) => readVisitor({ request: c.req.raw, connection: c.env }, trustProxy);
  /** A proxy knows people; the login knows one name for all. */
  const operatorOf = (c: Context, { name }: Visitor): string | undefined => name ?? c.get("operator");
  const close = () => {
    isOpen = false;
    told.clear();
    if (counts.size > 0) logger.warn({ reason: "more", counts: Object.fromEntries(counts) }, "board.refused");
    counts.clear();
  };
  return {
    visitor,
    action(c, fields) {
      const from = visitor(c);
      logger.info({ ...fields, operator: operatorOf(c, from), address: from.address }, "board.action");
    },
    refused(c, reason, fields = {}) {
      if (!isOpen) setTimeout(close, windowMs).unref();
      isOpen = true;
      const from = visitor(c);
      const line = `${reason} ${from.address}`;
      if (told.size >= TOLD || told.has(line)) {
        counts.set(reason, (counts.get(reason) ?? 0) + 1);
        return;
      }
      told.add(line);
      logger.warn({ reason, ...fields, operator: operatorOf(c, from), address: from.address }, "board.refused");
    },
  };
}
