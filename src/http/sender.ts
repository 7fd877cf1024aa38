/**
 * One request out, one {@link Outcome} back.
 *
 * Not `fetch`: in Bun it has no hook for name resolution, so it cannot be held to the address that was checked. Not
 * node:http either: it can, but costs four times as much as what we need of it (bench/RESULTS.md).
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
   * How long after its attempt began a request may begin to leave, ms: the job's lock. A process that was stopped for longer
   * must not send it, since another worker has the job by now. Without end unless given.
   */
  readonly lockMs?: number;
  /** Who is asked for names; the system's name servers when empty. */
  readonly dnsServers?: readonly NameServer[];
  /** Injected by tests; a resolver of our own otherwise. */
  readonly resolve?: Resolve;
  /** Certificate authorities to trust beside those of the runtime, PEM. */
  readonly ca?: string;
  /** Through which every request goes; none unless given. */
  readonly proxy?: URL | undefined;
  /** Leaves names to the proxy: none is looked up here, and no address that it has is vetted. */
  readonly proxyResolves?: boolean;
  /** After how long a connection is made anew, ms, however busy it is; 5 min, give or take a fifth, unless given. For tests. */
  readonly connectionAgeMs?: number;
}

/** Sends requests over private keep-alive connections, which nothing else may use: they lead to checked addresses only. */
export interface Sender {
  /**
   * Send one request.
   *
   * @param key  names the attempt for {@link Sender.cancel}; the job's id
   * @throws  never; whatever happens is an outcome
   */
  send(request: WebhookRequest, key: string): Promise<Outcome>;
  /** End one attempt at once; its outcome is the fault. Does nothing when there is none. */
  cancel(key: string, code: FaultCode): void;
  /** End every attempt at once, and every one that comes after: for shutdowns. */
  cancelAll(code: FaultCode): void;
  /** How many attempts are under way. */
  readonly inFlight: number;
  /** Drop the idle connections. */
  close(): void;
}

export function createSender(options: SenderOptions): Sender {
  const {
    timeoutMs,
    lockMs = Number.POSITIVE_INFINITY,
    allowNetworks,
    denyNetworks,
    dnsServers,
    resolve,
    ca,
  } = options;
  const attempts = new Map<string, Attempt>();
  const destinations = new WeakMap<URL, Destination>();
  let ended: FaultCode | undefined;

  const blocked = (address: string): string | undefined => blockedRange(address, allowNetworks, denyNetworks);
  const resolver: Resolver =
    resolve === undefined
      ? createResolver({ servers: dnsServers, blocked })
      : { resolve, unresolved: () => NO_SERVERS };
  // The proxy's own name has a resolver of its own: it may lead inside, and customers' dead names must not stand in its way.
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
      if (ended !== undefined) return Promise.resolve({ kind: "fault", code: ended, durationMs: 0 });
      const destination = destinationOf(request.url);
      if (destination.refusal !== undefined) return Promise.resolve({ ...destination.refusal, durationMs: 0 });
      attempts.get(key)?.cancel("lock_lost"); // the job was taken up again while we still held it: only one may live
      return new Promise((settle) => {
        const attempt: Attempt = new Attempt(
          connections,
          destination.target,
          { timeoutMs, lockMs, resolver, proxy },
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
      ended = code;
      for (const attempt of [...attempts.values()]) attempt.cancel(code);
    },
    get inFlight() {
      return attempts.size;
    },
    close: () => connections.close(),
  };
}
