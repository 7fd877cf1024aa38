/**
 * The egress proxy: opens sockets through it, and decides whose fault it is when a tunnel does not open.
 *
 * Every request goes through CONNECT, even to `http://` URLs. With the absolute form (`POST http://…`), the proxy would see the
 * body, would replace the name with the address, and its own responses would look like the receiver's.
 */
import type { LookupFunction } from "node:net";
import { LookupError } from "../dns/address.ts";
import { type Opening, type OpenSocket, openTlsWithin, type Target } from "./dial.ts";
import { ProxyError, type Result } from "./failure.ts";
import { ProxyEvidence } from "./proxy-evidence.ts";
import { createTunnels, type TunnelOptions } from "./tunnel.ts";

export interface EgressProxy {
  /** Opens a tunnel to an address, or to a name if the proxy resolves names; for a secure target, with TLS inside. */
  readonly open: OpenSocket;
  /** A receiver answered, so the proxy reaches it. */
  answered(target: Target): void;
  /** The result of an attempt that was still waiting for the proxy at its deadline; undefined if it was not waiting for it. */
  silence(target: Target): Result | undefined;
}

/** A tunnel that is being opened. */
interface PendingTunnel {
  /** When the proxy was asked, on the clock of performance.now(). */
  askedAt?: number;
  /** Whether the proxy has opened the tunnel. */
  isOpen?: boolean;
}

/**
 * Create an egress proxy.
 *
 * An unreachable proxy, or a refusal with 4xx, is a fault of ours. A 5xx or silence is the receiver's failure if the proxy reaches
 * other hosts, and otherwise a fault of ours; {@link ProxyEvidence} decides.
 */
export function createProxy(options: TunnelOptions): EgressProxy {
  const askForTunnel = createTunnels(options);
  const evidence = new ProxyEvidence();
  const pending = new Map<Target, Set<PendingTunnel>>();

  /** The error for a refused tunnel, by its status. */
  function refusal(status: number, { host }: Target): ProxyError {
    const isToBlame = status >= 500 && evidence.isToBlame(host, performance.now());
    if (!isToBlame) return new ProxyError({ kind: "fault", code: "proxy", cause: `status_${status}` });
    return new ProxyError({ kind: "failure", code: status === 504 ? "timeout" : "unreachable" });
  }

  const open: OpenSocket = (address, target, { opened, failed }) => {
    const tunnel: PendingTunnel = {};
    const tunnels = pending.get(target) ?? new Set();
    pending.set(target, tunnels.add(tunnel));
    const end = (): void => {
      if (tunnels.delete(tunnel) && tunnels.size === 0) pending.delete(target);
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
        tunnel.askedAt = performance.now();
      },
      answered(status, socket) {
        if (status >= 300) {
          socket.destroy();
          settle.failed(refusal(status, target));
          return;
        }
        tunnel.isOpen = true;
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
    answered: ({ host }) => evidence.passed(host, performance.now()),
    silence(target) {
      const tunnels = [...(pending.get(target) ?? [])];
      if (tunnels.length === 0 || tunnels.some(({ isOpen }) => isOpen)) return undefined;
      const askedAt = Math.min(...tunnels.map((tunnel) => tunnel.askedAt ?? Number.POSITIVE_INFINITY));
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
 * Create the lookup for a proxy that resolves names: it passes the name through.
 *
 * Except `localhost`, which would be the proxy's own machine, unless loopback addresses are allowed.
 *
 * @param blocked  returns the kind of a blocked address; undefined for an allowed one
 */
export function createNameOnlyLookup(blocked: (address: string) => string | undefined): LookupFunction {
  return (hostname, _, callback) => {
    const cause = /(^|\.)localhost\.?$/i.test(hostname) ? blocked("127.0.0.1") : undefined;
    if (cause === undefined) callback(null, [{ address: hostname, family: 4 }]);
    else queueMicrotask(() => callback(new LookupError({ kind: "failure", code: "dns", cause }), []));
  };
}
