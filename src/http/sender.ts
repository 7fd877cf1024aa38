/**
 * Sends one request and returns one {@link Outcome}.
 *
 * Not with `fetch`: Bun's has no hook for name resolution, so it could connect to an address other than the one that was vetted.
 * Not with node:http either: it has such a hook, but costs four times as much as this client (bench/RESULTS.md).
 */

import type { FaultCode, Outcome } from "../delivery/outcome.ts";
import type { WebhookRequest } from "../delivery/request.ts";
import { blockedRange, createLookup, type Resolve } from "../dns/address.ts";
import type { NameServer } from "../dns/resolv-conf.ts";
import { createResolver, NO_SERVERS, type Resolver } from "../dns/resolver.ts";
import { Attempt } from "./attempt.ts";
import { createConnections } from "./connections.ts";
import { type Destination, type DestinationRules, describeDestination } from "./destination.ts";
import { createDial, createOpenSocket } from "./dial.ts";
import { createNameOnlyLookup, createProxy } from "./proxy.ts";

export interface SenderOptions extends DestinationRules {
  /** Deadline of one attempt, from DNS to the last byte, in ms. */
  readonly timeoutMs: number;
  /**
   * The lifetime of the job's lock, in ms from the start of the attempt. A request that has not started to leave by then is not
   * sent: the process was suspended, and another worker has the job now. No limit by default.
   */
  readonly lockMs?: number;
  /** Name servers to ask; the system's by default, or when empty. */
  readonly dnsServers?: readonly NameServer[];
  /** Replaces our resolver in tests. */
  readonly resolve?: Resolve;
  /** Certificate authorities to trust in addition to the runtime's, PEM. */
  readonly ca?: string;
  /** Egress proxy for all requests; none by default. */
  readonly proxy?: URL | undefined;
  /** Leave name resolution to the proxy: names are not looked up here, so their addresses are not vetted. */
  readonly proxyResolves?: boolean;
  /** How much of a failed response's body to return with the outcome, in bytes; by default nothing of the response. */
  readonly responseBytes?: number;
  /** Maximum age of a connection, ms, even while in use; 5 min ± 20 % by default. For tests. */
  readonly connectionAgeMs?: number;
}

/** Sends requests over its own pool of keep-alive connections, all of which lead to vetted addresses. */
export interface Sender {
  /**
   * Send one request.
   *
   * @param key  identifies the attempt for {@link Sender.cancel}; the job's id
   * @throws  never; every result is an outcome
   */
  send(request: WebhookRequest, key: string): Promise<Outcome>;
  /** Abort one attempt: it resolves to this fault. Does nothing if there is no such attempt. */
  cancel(key: string, code: FaultCode): void;
  /** Abort all attempts, and refuse new ones with the same fault. For shutdowns. */
  cancelAll(code: FaultCode): void;
  /** How many attempts are in flight. */
  readonly inFlight: number;
  /** Close idle connections. */
  close(): void;
}

/** Create a sender with a connection pool and a resolver of its own. */
export function createSender(options: SenderOptions): Sender {
  const {
    timeoutMs,
    lockMs = Number.POSITIVE_INFINITY,
    responseBytes = 0,
    allowNetworks,
    denyNetworks,
    dnsServers,
    resolve,
    ca,
  } = options;
  const attempts = new Map<string, Attempt>();
  const destinations = new WeakMap<URL, Destination>();
  let canceledWith: FaultCode | undefined;

  const blocked = (address: string): string | undefined => blockedRange(address, allowNetworks, denyNetworks);
  const resolver: Resolver =
    resolve === undefined
      ? createResolver({ servers: dnsServers, blocked })
      : { resolve, unresolved: () => NO_SERVERS };
  // The proxy's name gets its own resolver: it may have a private address, and customers' dead names must not delay it.
  const proxy =
    options.proxy &&
    createProxy({ url: options.proxy, resolve: resolve ?? createResolver({ servers: dnsServers }).resolve, ca });
  const lookup =
    proxy && options.proxyResolves ? createNameOnlyLookup(blocked) : createLookup(resolver.resolve, blocked);
  const connections = createConnections(
    createDial(lookup, proxy?.open ?? createOpenSocket(ca)),
    options.connectionAgeMs,
  );

  function destinationOf(url: URL): Destination {
    const known = destinations.get(url);
    if (known !== undefined) return known;
    const destination = describeDestination(url, options);
    destinations.set(url, destination);
    return destination;
  }

  return {
    send(request, key) {
      if (canceledWith !== undefined) return Promise.resolve({ kind: "fault", code: canceledWith, durationMs: 0 });
      const destination = destinationOf(request.url);
      if (destination.refusal !== undefined) return Promise.resolve({ ...destination.refusal, durationMs: 0 });
      attempts.get(key)?.cancel("lock_lost"); // the job was taken again while we still had it: only one attempt may continue
      return new Promise((settle) => {
        const attempt: Attempt = new Attempt(
          connections,
          destination.target,
          { timeoutMs, lockMs, resolver, proxy, responseBytes },
          (outcome) => {
            if (attempts.get(key) === attempt) attempts.delete(key);
            settle(outcome);
          },
        );
        attempts.set(key, attempt);
        attempt.start(destination.requestLine, request);
      });
    },
    cancel: (key, code) => attempts.get(key)?.cancel(code),
    cancelAll: (code) => {
      canceledWith = code;
      for (const attempt of [...attempts.values()]) attempt.cancel(code);
    },
    get inFlight() {
      return attempts.size;
    },
    close: () => connections.close(),
  };
}
