/**
 * Connections for one-off commands, which must not hang.
 */
import type { RedisOptions } from "ioredis";
import { within } from "../runtime/deadline.ts";
import { LoadingError, NoDatabaseError, openValkey, type Valkey } from "./connection.ts";
import { codeOf } from "./refusals.ts";

const REACH_MS = 2 * 1000; // 2 s: someone is waiting at a terminal

const REASONS: Readonly<Record<string, string>> = {
  ECONNREFUSED: "nothing listens there",
  ENOTFOUND: "the host is not known",
  EAI_AGAIN: "the host cannot be looked up",
  ETIMEDOUT: "no answer",
  ECONNRESET: "it cut the connection",
};

/** A connection, or why there is none. */
export type Reached =
  | { readonly ok: true; readonly valkey: Valkey }
  | {
      readonly ok: false;
      readonly reason: string;
      /** VALKEY_URL itself is wrong; `reason` is then a complete sentence. */
      readonly isWrongSetting?: boolean;
    };

/**
 * Open a connection for a one-off command that must not hang. It never reconnects, and commands without a reply within 2 s
 * fail.
 *
 * @param url  like `VALKEY_URL`
 * @param key  like that of {@link openValkey}
 * @returns within 2 s, a ready connection or the reason why there is none
 * @throws  never
 */
export async function reachValkey(url: string, name: string, key?: string): Promise<Reached> {
  const options: RedisOptions = {
    connectionName: name,
    lazyConnect: true,
    retryStrategy: () => null,
    connectTimeout: REACH_MS,
    socketTimeout: REACH_MS,
    maxRetriesPerRequest: 0,
  };
  const valkey = openValkey(url, options, key);
  let complaint: NodeJS.ErrnoException | undefined;
  let resolve!: (nothing: undefined) => void; // Node 20 has no Promise.withResolvers
  const hasComplained = new Promise<undefined>((onResolve) => {
    resolve = onResolve;
  });
  const complain = (error: NodeJS.ErrnoException) => {
    complaint ??= codeOf(error) === "LOADING" ? new LoadingError() : error;
    resolve(undefined);
  };
  valkey.on("error", complain);
  const answered = valkey.connect().then(() => valkey.ping());
  answered.catch(complain); // an earlier complaint explains more
  const isReady = await within(REACH_MS, Promise.race([answered, hasComplained]), undefined);
  if (isReady !== undefined && complaint === undefined) return { ok: true, valkey };
  valkey.disconnect();
  if (complaint instanceof NoDatabaseError) return { ok: false, reason: complaint.problem, isWrongSetting: true };
  if (complaint === undefined) return { ok: false, reason: "no answer" };
  return { ok: false, reason: REASONS[complaint.code ?? ""] ?? complaint.message.replace(/\.$/, "") };
}
