/**
 * The connections to receivers: opened, lent to one exchange at a time, kept for a while when idle.
 *
 * Over node:net and node:tls: they let us choose the address, give up while connecting, and cost a quarter of what node:http
 * does.
 */
import { Connection } from "./connection.ts";
import type { Dial, Target } from "./dial.ts";

const MAX_IDLE = 2_048; // idle connections in all: with more hosts than that in rotation, the oldest goes
const MAX_AGE_MS = 5 * 60 * 1000; // 5 min: so late a busy one may notice a name that moved, or a certificate that was withdrawn
const AGE_SPREAD = 0.2; // either way: those that were opened together are not made anew together
const IDLE_MS = 4 * 1000; // 4 s: below the 5 s after which Node's and many proxies' servers close an idle connection

export interface Connections {
  /** An idle connection to the target's origin, or a new one. */
  take(target: Target): Connection;
  /** A new connection. */
  open(target: Target): Connection;
  /** Keep a connection for the next exchange, for a while, unless it is too old. */
  keep(connection: Connection): void;
  /** Drop the idle ones. */
  close(): void;
}

/**
 * @param dial      asked for each new connection
 * @param maxAgeMs  after which a connection is not kept any more, give or take a fifth, however busy it is
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

  /** One timer for all, since the one that is idle for longest is the first. */
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
      connection.leave();
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
