/**
 * The pool of connections to receivers: opens them, lends each to one exchange at a time, and keeps idle ones for a while.
 *
 * Built on node:net and node:tls, which let us choose the address and abort while connecting, at a quarter of the cost of
 * node:http.
 */
import { Connection } from "./connection.ts";
import type { Dial, Target } from "./dial.ts";

const MAX_IDLE = 2_048; // idle connections in total; beyond that, the one idle longest is closed
const MAX_AGE_MS = 5 * 60 * 1000; // 5 min, after which a busy connection notices a changed address or certificate
const AGE_SPREAD = 0.2; // ±20 %, so that connections opened together are not replaced together
const SERVERS_IDLE_MS = 5 * 1000; // 5 s, after which Node's and many proxies' servers close an idle connection
const IDLE_MS = SERVERS_IDLE_MS - 1000; // 4 s: well before they do

export interface Connections {
  /** An idle connection to the target's origin, or a new one. */
  take(target: Target): Connection;
  /** A new connection. */
  open(target: Target): Connection;
  /** Return a connection to the pool once its exchange is complete. It is closed if it is too old. */
  keep(connection: Connection): void;
  /** Close all idle connections. */
  close(): void;
}

/**
 * Create a pool.
 *
 * @param dial      opens each new connection
 * @param maxAgeMs  age at which a connection is no longer kept, ±20 %
 */
export function createConnections(dial: Dial, maxAgeMs = MAX_AGE_MS): Connections {
  const idle = new Set<Connection>(); // oldest first
  const idleByOrigin = new Map<string, Connection[]>(); // oldest first
  let sweeper: Timer | undefined;

  function forget(connection: Connection): void {
    if (!idle.delete(connection)) return;
    const siblings = idleByOrigin.get(connection.origin) as Connection[];
    if (siblings.length === 1) idleByOrigin.delete(connection.origin);
    else siblings.splice(siblings.lastIndexOf(connection), 1);
  }

  function drop(connection: Connection): void {
    forget(connection);
    connection.destroy();
  }

  /** Close connections that have been idle too long. One timer serves all, since `idle` is ordered. */
  function sweep(): void {
    sweeper = undefined;
    for (const connection of idle) {
      const leftMs = connection.idleSince + IDLE_MS - performance.now();
      if (leftMs > 0) {
        sweeper = setTimeout(sweep, leftMs).unref();
        return;
      }
      drop(connection);
    }
  }

  function open(target: Target): Connection {
    const connection = new Connection(target, dial, forget);
    connection.retireAt = performance.now() + maxAgeMs * (1 - AGE_SPREAD + 2 * AGE_SPREAD * Math.random());
    return connection;
  }

  return {
    open,
    take(target) {
      const connection = idleByOrigin.get(target.origin)?.at(-1); // the newest is the least likely to be stale
      if (connection === undefined) return open(target);
      forget(connection);
      connection.isReused = true;
      return connection;
    },
    keep(connection) {
      connection.detach();
      const nowMs = performance.now();
      if (nowMs > connection.retireAt) {
        connection.destroy();
        return;
      }
      connection.idleSince = nowMs;
      idle.add(connection);
      const siblings = idleByOrigin.get(connection.origin);
      if (siblings === undefined) idleByOrigin.set(connection.origin, [connection]);
      else siblings.push(connection);
      if (idle.size > MAX_IDLE) drop(idle.values().next().value as Connection);
      sweeper ??= setTimeout(sweep, IDLE_MS).unref();
    },
    close() {
      clearTimeout(sweeper);
      for (const connection of [...idle]) drop(connection);
    },
  };
}
