/**
 * The egress proxy: whose fault it is when no tunnel opens, its own or that of the receiver behind it.
 *
 * Every target goes through CONNECT, `http://` too. In the absolute form (`POST http://…`) the proxy would see the body, would write
 * the address in the place of the name, and its own answers could not be told from the receiver's.
 */
import type { LookupFunction } from "node:net";
import { LookupError } from "../dns/address.ts";
import { type Opening, type OpenSocket, openTlsWithin, type Target } from "./dial.ts";
import { ProxyError, type Result } from "./failure.ts";
import { ProxyEvidence } from "./proxy-evidence.ts";
import { createTunnels, type TunnelOptions } from "./tunnel.ts";

export interface EgressProxy {
  /** Opens a tunnel to an address, or to a name where the proxy resolves, and TLS within it for a target that is secure. */
  readonly open: OpenSocket;
  /** A receiver answered: the proxy gets through to it. */
  heard(target: Target): void;
  /** What an attempt ends with that waited for the proxy until its deadline; undefined when it did not wait for it. */
  silence(target: Target): Result | undefined;
}

/** A tunnel that is being opened. */
interface Opened {
  /** When it was asked for, on the clock of performance.now(). */
  askedAt?: number;
  /** The proxy has got through. */
  isThrough?: boolean;
}

/**
 * Make what opens sockets through a proxy.
 *
 * A refusal with 4xx, or a proxy that cannot be reached, is a fault of ours. A 5xx and silence are the receiver's doing where the proxy
 * gets through to others, and a fault of ours elsewhere: {@link ProxyEvidence}.
 */
export function createProxy(options: TunnelOptions): EgressProxy {
  const askForTunnel = createTunnels(options);
  const evidence = new ProxyEvidence();
  const opening = new Map<Target, Set<Opened>>();

  /** Whose fault a refusal is, by its status. */
  function refusal(status: number, { host }: Target): ProxyError {
    const isToBlame = status >= 500 && evidence.isToBlame(host, performance.now());
    if (!isToBlame) return new ProxyError({ kind: "fault", code: "proxy", cause: `status_${status}` });
    return new ProxyError({ kind: "failure", code: status === 504 ? "timeout" : "unreachable" });
  }

  const open: OpenSocket = (address, target, { opened, failed }) => {
    const state: Opened = {};
    const states = opening.get(target) ?? new Set();
    opening.set(target, states.add(state));
    const end = (): void => {
      if (states.delete(state) && states.size === 0) opening.delete(target);
    };
    const settle: Opening = {
      opened(socket) {
        end();
        opened(socket);
      },
      failed(error) {
        end();
        failed(error);
      },
    };
    let stop = askForTunnel(authorityOf(address, target), {
      asked() {
        state.askedAt = performance.now();
      },
      answered(status, socket) {
        if (status >= 300) {
          socket.destroy();
          settle.failed(refusal(status, target));
          return;
        }
        state.isThrough = true;
        evidence.passed(target.host, performance.now());
        if (target.isSecure) stop = openTlsWithin(socket, target, options.ca, settle);
        else settle.opened(socket);
      },
      failed: settle.failed,
    });
    return () => {
      end();
      stop();
    };
  };

  return {
    open,
    heard: ({ host }) => evidence.passed(host, performance.now()),
    silence(target) {
      const states = [...(opening.get(target) ?? [])];
      if (states.length === 0 || states.some(({ isThrough }) => isThrough)) return undefined;
      const askedAt = Math.min(...states.map((state) => state.askedAt ?? Number.POSITIVE_INFINITY));
      const wasReached = askedAt < Number.POSITIVE_INFINITY;
      return wasReached && evidence.isToBlameForSilence(target.host, askedAt, performance.now())
        ? { kind: "failure", code: "timeout" }
        : { kind: "fault", code: "proxy", cause: "silent" };
    },
  };
}

function authorityOf(address: string, { port }: Target): string {
  return `${address.includes(":") ? `[${address}]` : address}:${port}`;
}

/**
 * Make what stands in the place of a lookup where the proxy resolves: it is asked for the name.
 *
 * Not for `localhost`, which would be the proxy's own machine, unless loopback addresses may be reached.
 *
 * @param blocked  the kind of an address that may not be reached; undefined for others
 */
export function createNameOnlyLookup(blocked: (address: string) => string | undefined): LookupFunction {
  return (hostname, _, callback) => {
    const cause = /(^|\.)localhost\.?$/i.test(hostname) ? blocked("127.0.0.1") : undefined;
    if (cause === undefined) callback(null, [{ address: hostname, family: 4 }]);
    else queueMicrotask(() => callback(new LookupError({ kind: "failure", code: "dns", cause }), []));
  };
}
