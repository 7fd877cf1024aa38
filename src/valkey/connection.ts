/**
 * Connections to Valkey, and what it says about itself.
 */
import "./channel-subscribers.ts";
import { type Command, Redis, type RedisOptions, ReplyError } from "ioredis";
import { within } from "../runtime/deadline.ts";
import type { Logger } from "../runtime/logger.ts";
import { buildInfo, isLoading } from "./facts.ts";
import { joinWrites } from "./joined-writes.ts";
import { createRefusalWatch, type RefusalWatch } from "./refusal-watch.ts";
import { codeOf, refusalOf } from "./refusals.ts";
import { createResend, type Resend } from "./resend.ts";
import { addressOf, placeOf } from "./url.ts";

export { readFacts, type ValkeyFacts } from "./facts.ts";

export type Valkey = Redis;

/** Valkey was started and still reads its data: it answers, and does nothing yet. */
export class LoadingError extends Error {
  override readonly name = "LoadingError";
  constructor() {
    super("Valkey is loading");
  }
}

/** Valkey does not have the database that the URL names. It has database 0, with the events of another environment. */
export class NoDatabaseError extends Error {
  override readonly name = "NoDatabaseError";
  readonly code = "VALKEY_NO_DATABASE";
  /** The same as a problem of the settings. */
  readonly problem: string;
  /** @param place  as of `placeOf` */
  constructor(place: string, database: number | string) {
    super(`Valkey at ${place} has no database ${database}`);
    this.problem = `expected VALKEY_URL to name a database that exists: ${this.message}`;
  }
}

const LOADING_MS = 500; // how often to ask a Valkey that loads, or is busy
const SENTINEL_MS = 2 * 1000; // 2 s for one Sentinel to answer: then the next is asked

/**
 * Open a connection. It is usable in the database of its URL alone: while that cannot be selected, every connecting ends in
 * an `error`, and the next one follows as `retryStrategy` says. This holds for its duplicates too.
 *
 * @param url  as `VALKEY_URL`; where it names Sentinels, each connecting begins with asking them for the primary
 */
export function openValkey(url: string, options: RedisOptions): DatabaseConnection {
  const address = addressOf(url);
  if ("host" in address) return new DatabaseConnection(placeOf(url), { ...address, ...options });
  const timeouts = { connectTimeout: SENTINEL_MS, sentinelCommandTimeout: SENTINEL_MS };
  const sentinelRetryStrategy = options.retryStrategy ?? (() => null);
  return new DatabaseConnection(placeOf(url), { ...address, ...timeouts, sentinelRetryStrategy, ...options });
}

/** Told by its words, for want of a code of its own: what a server with too many clients answers is an ERR too, and passes. */
const NO_DATABASE = /^ERR (DB index is out of range|SELECT is not allowed in cluster mode)/;

/**
 * A connection that is never usable in another database than its own.
 *
 * ioredis sends SELECT with each connecting, and when it is refused says so and goes on, in database 0. But it is ready for
 * commands only once all of its handshake has been answered. Here a refused SELECT stays unanswered, so that nothing can
 * get through, whatever is called meanwhile; and the connection is closed, to be made anew.
 */
class DatabaseConnection extends Redis {
  /** Takes commands that Valkey refused for now; undefined leaves them to their callers. Duplicates have none. */
  resend: Resend<Command> | undefined;
  /** Told of all that is refused; shared with duplicates. */
  refusals: RefusalWatch | undefined;

  constructor(
    private readonly place: string,
    options: RedisOptions,
  ) {
    // Not RESP3, whose HELLO takes the password along: a wrong one would be told as a missing one.
    super({ ...options, protocol: 2, replyMapping: "legacy" });
  }

  /** BullMQ blocks on a duplicate; ioredis's own would be a plain Redis. */
  override duplicate(options?: RedisOptions): Redis {
    const duplicate = new DatabaseConnection(this.place, { ...this.options, ...options });
    duplicate.refusals = this.refusals;
    return duplicate;
  }

  override sendCommand(...given: Parameters<Redis["sendCommand"]>): unknown {
    this.refusals?.sent(given[0]);
    return super.sendCommand(...given);
  }

  /**
   * ioredis asks this in its handshake, and BullMQ as it starts: neither could go on without an answer. A user that may not ask
   * gets what HELLO tells.
   */
  override info(...given: unknown[]): Promise<string> {
    const callback = given.find((one) => typeof one === "function") as
      | ((error: unknown, info?: string) => void)
      | undefined;
    const sections = given.filter((one) => typeof one === "string");
    const asked = (this.call("info", ...sections) as Promise<string>).catch((error: Error) => {
      if (refusalOf(error) === "later")
        return new Promise((resolve) => setTimeout(resolve, LOADING_MS)).then(() => this.info(...sections));
      if (codeOf(error) !== "NOPERM") throw error;
      return (this.call("hello") as Promise<unknown[]>).catch(() => []).then(buildInfo);
    });
    const told = asked.then((info) => {
      if (isLoading(info)) this.silentEmit("error", new LoadingError());
      callback?.(null, info);
      return info;
    });
    if (callback !== undefined) told.catch(callback);
    return told;
  }

  /** ioredis calls this with each error of Valkey, and the command that it answers. */
  override handleReconnection(error: Error, item: Parameters<Redis["handleReconnection"]>[1]): void {
    const command = item.command as Command;
    if (this.status === "ready") this.refusals?.refused(error, command);
    const isAlone = this.status === "ready" && !command.inTransaction; // no part of a handshake, nor of a transaction
    if (isAlone && !isReadonly(error) && this.resend?.take(error, command)) return;
    super.handleReconnection(error, item);
  }

  /** ioredis alone calls this, in its handshake. */
  override async select(database: number | string): Promise<"OK"> {
    const { stream } = this;
    try {
      return await super.select(database);
    } catch (error) {
      await new Promise((resolve) => setImmediate(resolve)); // a refused AUTH is told first, and closes the connection
      if (stream.writable) {
        const isMissing = NO_DATABASE.test((error as Error).message);
        this.silentEmit("error", isMissing ? new NoDatabaseError(this.place, database) : error);
        this.disconnect(true);
      }
      return await new Promise<never>(() => {});
    }
  }
}

const MAX_RECONNECT_DELAY_MS = 2 * 1000; // 2 s: how long after Valkey's return we may be unaware of it
const MAX_REFUSED_DELAY_MS = 5 * 1000; // 5 s after a refused login
const SILENCE_MS = 15 * 1000; // 15 s without an answer: longer than BullMQ's longest wait for jobs, which is 10 s

/**
 * Open a connection that never gives up: commands wait while Valkey is away, or refuses them for now, and are sent again when it
 * is back, so that nothing that has happened goes unrecorded.
 *
 * @param url   as `VALKEY_URL`
 * @param name  shown in CLIENT LIST and in the log
 * @param isProbe  what Valkey refuses is its callers' at once, and nobody else is told: for who asks how it is
 */
export function connectValkey(
  url: string,
  name: string,
  logger: Pick<Logger, "info" | "warn">,
  { isProbe = false }: { readonly isProbe?: boolean } = {},
): Valkey {
  const failover = createFailoverPause();
  const valkey = openValkey(url, {
    connectionName: name,
    maxRetriesPerRequest: null,
    maxLoadingRetryTime: LOADING_MS,
    // A machine that vanished closes nothing, and TCP alone would hope for a quarter of an hour.
    socketTimeout: SILENCE_MS,
    retryStrategy(times) {
      const trouble = troubleOf(valkey);
      const isRefused = trouble !== undefined && isAnswer(trouble); // a login: somebody has to mend it
      if (isRefused) return Math.min(500 * 2 ** Math.min(times, 10), MAX_REFUSED_DELAY_MS);
      return Math.min(Math.max(50 * 2 ** Math.min(times, 10), failover.ms()), MAX_RECONNECT_DELAY_MS);
    },
    // Go and find the new primary, then resend.
    reconnectOnError(error) {
      if (!isReadonly(error)) return false;
      failover.foundReplica();
      return 2;
    },
  });
  expectFailovers(valkey);
  valkey.on("connect", () => joinWrites(valkey.stream));
  valkey.on("ready", () => {
    if (troubles.delete(valkey)) logger.info({ connection: name }, "valkey.back");
  });
  // One line an outage, not one a reconnect: the first says why. A second one when what came back has not our database.
  valkey.on("error", (error: NodeJS.ErrnoException) => {
    const known = troubles.get(valkey);
    troubles.set(valkey, error);
    const isMissing = error instanceof NoDatabaseError;
    if (known !== undefined && (!isMissing || known instanceof NoDatabaseError)) return;
    logger.warn({ connection: name, reason: isMissing ? error.message : (error.code ?? error.message) }, "valkey.away");
  });
  if (isProbe) return valkey;
  valkey.refusals = createRefusalWatch({
    onRefusing: (reason) => logger.warn({ connection: name, reason }, "valkey.refuses"),
    onAccepting: () => logger.info({ connection: name }, "valkey.accepts"),
  });
  valkey.resend = createResend((command: Command) => void valkey.sendCommand(command));
  return valkey;
}

const FAILOVER_MS = 10 * 1000; // 10 s without another replica found: the failover is over

/** How long to wait before looking for the primary again: longer each time a replica is found in its place. */
function createFailoverPause() {
  let found = 0;
  let lastFoundAt = Number.NEGATIVE_INFINITY;
  return {
    foundReplica(): void {
      const sinceMs = performance.now() - lastFoundAt;
      if (sinceMs > FAILOVER_MS) found = 0;
      if (sinceMs > 50) found += 1; // all commands in flight say so at once
      lastFoundAt = performance.now();
    },
    ms: () => (performance.now() - lastFoundAt > FAILOVER_MS ? 0 : 50 * 2 ** Math.min(found, 10)),
  };
}

const troubles = new WeakMap<Valkey, Error>();

/** Why a connection of {@link connectValkey} cannot be used: its last error; undefined while it can. */
export const troubleOf = (valkey: Valkey): Error | undefined => troubles.get(valkey);

/** What Valkey refuses of a connection of {@link connectValkey}, or of its duplicates, in its own words; undefined while it takes all. */
export const refusedOf = (valkey: Valkey): string | undefined => (valkey as DatabaseConnection).refusals?.reason;

/** For each READONLY ioredis listens to the connection's end once more: a failover under load is no leak to warn of. */
export function expectFailovers(valkey: Valkey): void {
  valkey.on("connect", () => valkey.stream.setMaxListeners(0));
}

/** Whether an error is what Valkey answered, not what became of the connection. */
export const isAnswer = (error: Error): boolean => error instanceof ReplyError;

/** What a primary that became a replica answers: the first word of an error is its code, not prose. */
export function isReadonly(error: Error): boolean {
  return error.message.startsWith("READONLY ");
}

const REACH_MS = 2 * 1000; // 2 s: somebody waits at a terminal

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
      /** VALKEY_URL itself is wrong: the reason then is a problem of settings, a sentence of its own. */
      readonly isWrongSetting?: boolean;
    };

/**
 * Open a connection that gives up: for what runs once and must not hang. It never reconnects, and a command fails that
 * has no answer within 2 s.
 *
 * @param url  as `VALKEY_URL`
 * @returns the connection, ready; or why there is none, in words, within 2 s
 * @throws  never
 */
export async function reachValkey(url: string, name: string): Promise<Reached> {
  const valkey = openValkey(url, {
    connectionName: name,
    lazyConnect: true,
    retryStrategy: () => null,
    connectTimeout: REACH_MS,
    socketTimeout: REACH_MS,
    maxRetriesPerRequest: 0,
  });
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
  answered.catch(complain); // unless something was said before that explains it
  const isReady = await within(REACH_MS, Promise.race([answered, hasComplained]), undefined);
  if (isReady !== undefined && complaint === undefined) return { ok: true, valkey };
  valkey.disconnect();
  if (complaint instanceof NoDatabaseError) return { ok: false, reason: complaint.problem, isWrongSetting: true };
  if (complaint === undefined) return { ok: false, reason: "no answer" };
  return { ok: false, reason: REASONS[complaint.code ?? ""] ?? complaint.message.replace(/\.$/, "") };
}
