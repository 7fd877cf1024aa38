/**
 * Connections to Valkey.
 */
import "./channel-subscribers.ts";
import { type Command, Redis, type RedisOptions, ReplyError } from "ioredis";
import type { Logger } from "../runtime/logger.ts";
import { SlotConnector, type SlotOptions, slotOf, Topology } from "./cluster.ts";
import { buildInfo, isLoading } from "./facts.ts";
import { joinWrites } from "./joined-writes.ts";
import { createRefusalWatch, type RefusalWatch } from "./refusal-watch.ts";
import { codeOf, refusalOf } from "./refusals.ts";
import { createResend, type Resend } from "./resend.ts";
import { watchSilence } from "./silent-node.ts";
import { addressOf, placeOf } from "./url.ts";

export { readFacts, type ValkeyFacts } from "./facts.ts";

export type Valkey = Redis;

/** Valkey is still loading its data after a start: it answers but executes nothing yet. */
export class LoadingError extends Error {
  override readonly name = "LoadingError";
  constructor() {
    super("Valkey is loading");
  }
}

/** Valkey does not have the URL's database. Falling back to database 0 could deliver another environment's events. */
export class NoDatabaseError extends Error {
  override readonly name = "NoDatabaseError";
  readonly code = "VALKEY_NO_DATABASE";
  /** The error as a problem of the settings. */
  readonly problem: string;
  /** @param place  as of `placeOf` */
  constructor(place: string, database: number | string) {
    super(`Valkey at ${place} has no database ${database}`);
    this.problem = `expected VALKEY_URL to name a database that exists: ${this.message}`;
  }
}

const LOADING_MS = 500; // how often to check a Valkey that is loading or busy
const ASK_MS = 2 * 1000; // 2 s for a Sentinel, or a node of a cluster, to take a connection before asking anew

/**
 * Open a connection that is usable only in its URL's database: while that cannot be selected, every connect ends in an
 * `error` and is retried according to `retryStrategy`. This holds for its duplicates too.
 *
 * @param url  like `VALKEY_URL`; with Sentinels or a cluster, each connect begins by asking for the primary
 * @param key  in a cluster: the connection leads to the node that owns this key's slot
 */
export function openValkey(url: string, options: RedisOptions, key = ""): DatabaseConnection {
  const address = addressOf(url);
  if ("nodes" in address) {
    const { nodes, ...login } = address;
    const slot: SlotOptions = { topology: topologyOf(url, nodes, login), slot: slotOf(key), Connector: SlotConnector };
    return new DatabaseConnection(placeOf(url), { ...login, connectTimeout: ASK_MS, ...options, ...slot });
  }
  if ("host" in address) return new DatabaseConnection(placeOf(url), { ...address, ...options });
  const timeouts = { connectTimeout: ASK_MS, sentinelCommandTimeout: ASK_MS };
  const sentinelRetryStrategy = options.retryStrategy ?? (() => null);
  return new DatabaseConnection(placeOf(url), { ...address, ...timeouts, sentinelRetryStrategy, ...options });
}

const topologies = new Map<string, Topology>(); // by URL: connections to all shards of a cluster share one

function topologyOf(url: string, ...known: ConstructorParameters<typeof Topology>): Topology {
  const topology = topologies.get(url) ?? new Topology(...known);
  topologies.set(url, topology);
  return topology;
}

/** Recognized by its text, since ERR is also the code of temporary errors, such as too many clients. */
const NO_DATABASE = /^ERR (DB index is out of range|SELECT is not allowed in cluster mode)/;

/**
 * A connection that is never usable in a database other than its own.
 *
 * ioredis sends SELECT on each connect; if it is refused, ioredis emits an error and continues in database 0. But it accepts
 * commands only once the whole handshake has been answered. Here the promise of a refused SELECT never settles, so that no
 * command can get through, and the connection is closed and reopened.
 */
class DatabaseConnection extends Redis {
  /** Resends commands that Valkey refused temporarily; undefined leaves refusals to callers. Duplicates have none. */
  resend: Resend<Command> | undefined;
  /** Tracks refusals; shared with duplicates. */
  refusals: RefusalWatch | undefined;
  /** Whether it has to look for another node when this one no longer owns its slot. */
  readonly isInCluster: boolean;

  constructor(
    private readonly place: string,
    options: RedisOptions,
  ) {
    // Not RESP3: its HELLO includes the password, and a wrong one would be reported as a missing one.
    super({ ...options, protocol: 2, replyMapping: "legacy" });
    this.isInCluster = options.Connector === SlotConnector;
    if (this.isInCluster) watchSilence(this, options as SlotOptions);
  }

  /** BullMQ blocks on a duplicate, which by default would be a plain Redis. */
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
   * ioredis calls this in its handshake and BullMQ at startup, and neither can continue without a reply. A user without the
   * permission gets what HELLO returns.
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
    const answered = asked.then((info) => {
      if (isLoading(info)) this.silentEmit("error", new LoadingError());
      callback?.(null, info);
      return info;
    });
    if (callback !== undefined) answered.catch(callback);
    return answered;
  }

  /** ioredis calls this with each error reply and its command. */
  override handleReconnection(error: Error, item: Parameters<Redis["handleReconnection"]>[1]): void {
    const command = item.command as Command;
    if (this.status === "ready") this.refusals?.refused(error, command);
    const isAlone = this.status === "ready" && !command.inTransaction; // not part of a handshake or transaction
    if (isAlone && !isElsewhere(error, this.isInCluster) && this.resend?.take(error, command)) return;
    super.handleReconnection(error, item);
  }

  /** Called only by ioredis, in its handshake. */
  override async select(database: number | string): Promise<"OK"> {
    const { stream } = this;
    try {
      return await super.select(database);
    } catch (error) {
      await new Promise((resolve) => setImmediate(resolve)); // let a refused AUTH be reported first; it closes the connection
      if (stream.writable) {
        const isMissing = NO_DATABASE.test((error as Error).message);
        this.silentEmit("error", isMissing ? new NoDatabaseError(this.place, database) : error);
        this.disconnect(true);
      }
      return await new Promise<never>(() => {});
    }
  }
}

const MAX_RECONNECT_DELAY_MS = 2 * 1000; // 2 s: how long after Valkey's return we may notice
const MAX_REFUSED_DELAY_MS = 5 * 1000; // 5 s after a refused login
/** How long a connection may be silent before it is closed, in ms. */
export const SILENCE_MS = 15 * 1000; // 15 s without an answer: longer than BullMQ's longest wait for jobs, which is 10 s

/**
 * Open a connection that never gives up: while Valkey is away or refuses commands temporarily, they wait and are resent
 * later, so that no outcome is lost.
 *
 * @param url      like `VALKEY_URL`
 * @param name     shown in CLIENT LIST and in the log
 * @param key      like that of {@link openValkey}
 * @param isProbe  pass refusals straight to callers, without logging: for health checks
 */
export function connectValkey(
  url: string,
  name: string,
  logger: Pick<Logger, "info" | "warn">,
  { isProbe = false, key }: { readonly isProbe?: boolean; readonly key?: string } = {},
): Valkey {
  const failover = createFailoverPause();
  const options: RedisOptions = {
    connectionName: name,
    maxRetriesPerRequest: null,
    maxLoadingRetryTime: LOADING_MS,
    // A machine that vanished closes no connections, and TCP alone would take a quarter of an hour to notice.
    socketTimeout: SILENCE_MS,
    retryStrategy(times) {
      const trouble = troubleOf(valkey);
      const isRefused = trouble !== undefined && isAnswer(trouble); // a refused login, which someone has to fix
      if (isRefused) return Math.min(500 * 2 ** Math.min(times, 10), MAX_REFUSED_DELAY_MS);
      return Math.min(Math.max(50 * 2 ** Math.min(times, 10), failover.ms()), MAX_RECONNECT_DELAY_MS);
    },
    // Find the new primary, then resend.
    reconnectOnError(error) {
      if (!isElsewhere(error, valkey.isInCluster)) return false;
      failover.foundElsewhere();
      return 2;
    },
  };
  const valkey = openValkey(url, options, key);
  expectFailovers(valkey);
  valkey.on("connect", () => joinWrites(valkey.stream));
  valkey.on("ready", () => {
    if (troubles.delete(valkey)) logger.info({ connection: name }, "valkey.back");
  });
  // One line per outage rather than per reconnect. A second one if Valkey returns without our database.
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

const FAILOVER_MS = 10 * 1000; // the failover is over when no other node was found for 10 s

/** How long to wait before looking for the primary again: longer each time another node is found instead. */
function createFailoverPause() {
  let found = 0;
  let lastFoundAt = Number.NEGATIVE_INFINITY;
  return {
    foundElsewhere(): void {
      const sinceMs = performance.now() - lastFoundAt;
      if (sinceMs > FAILOVER_MS) found = 0;
      if (sinceMs > 50) found += 1; // all commands in flight report it at once
      lastFoundAt = performance.now();
    },
    ms: () => (performance.now() - lastFoundAt > FAILOVER_MS ? 0 : 50 * 2 ** Math.min(found, 10)),
  };
}

const troubles = new WeakMap<Valkey, Error>();

/** The last error of a connection of {@link connectValkey}; undefined while it is usable. */
export const troubleOf = (valkey: Valkey): Error | undefined => troubles.get(valkey);

/** Valkey's last refusal on a connection of {@link connectValkey} or its duplicates; undefined while it accepts all commands. */
export const refusedOf = (valkey: Valkey): string | undefined => (valkey as DatabaseConnection).refusals?.reason;

/** ioredis adds a listener per READONLY error: lift the limit so that a failover under load does not log leak warnings. */
export function expectFailovers(valkey: Valkey): void {
  valkey.on("connect", () => valkey.stream.setMaxListeners(0));
}

/** Whether an error is a reply from Valkey rather than a connection failure. */
export const isAnswer = (error: Error): boolean => error instanceof ReplyError;

/** Whether an error is the reply of a primary that became a replica. An error's first word is its code. */
export function isReadonly(error: Error): boolean {
  return error.message.startsWith("READONLY ");
}

/** What a cluster's node answers when another owns the slot, or will soon. */
const ELSEWHERE = new Set(["READONLY", "MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "UNBLOCKED"]);

/**
 * Whether an error says to look for the primary again. In a cluster those that pass, too: a command that waited here for them
 * to pass would be sent behind one that was sent to the new owner.
 */
export const isElsewhere = (error: Error, isInCluster: boolean): boolean =>
  isInCluster ? ELSEWHERE.has(codeOf(error)) : isReadonly(error);
