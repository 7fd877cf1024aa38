/**
 * The connections to receivers: opened, lent to one exchange at a time, kept for a while when idle.
 *
 * Over node:net and node:tls: they let us choose the address, give up while connecting, and cost a quarter of what node:http
 * does.
 */
import { Connection } from "./connection.ts";
import type { Dial, Target } from "./dial.ts";

const MAX_IDLE = 2_048; // idle connections in all: with more hosts than that in rotation, the oldest goes
const IDLE_MS = 4 * 1000; // 4 s: below the 5 s after which Node's and many proxies' servers close an idle connection

export interface Connections {
  /** An idle connection to the target's origin, or a new one. */
  take(target: Target): Connection;
  /** A new connection. */
  open(target: Target): Connection;
  /** Keep a connection for the next exchange, for a while. */
  keep(connection: Connection): void;
  /** Drop the idle ones. */
  close(): void;
}

/** @param dial  asked for each new connection */
export function createConnections(dial: Dial): Connections {
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

  const open = (target: Target): Connection => new Connection(target, dial, forget);

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
      connection.idleSince = performance.now();
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
