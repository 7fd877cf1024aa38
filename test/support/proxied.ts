/** Senders behind a proxy, and the receivers they reach, which end with the test, and what their outcomes are. */
import { expect } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Outcome } from "../../src/delivery/outcome.ts";
import { buildBody, buildRequest, type WebhookRequest } from "../../src/delivery/request.ts";
import type { Address } from "../../src/dns/address.ts";
import { createSender, type Sender, type SenderOptions } from "../../src/http/sender.ts";
import { type ConnectAnswer, type ConnectProxy, type ConnectRequest, startConnectProxy } from "./connect-proxy.ts";
import { type Exchange, http, type Listener, type ListenerOptions, listen } from "./listener.ts";

/** Deliveries through an egress proxy that takes CONNECT. Against a real squid and tinyproxy: test/chaos/egress-proxy.ts. */

/** The address of a receiver. */
export const PUBLIC = "93.184.216.34"; // the proxy leads it, like every other address, to loopback

/** The address of another receiver. */
export const OTHER = "93.184.216.35";

/** A file of this folder: a certificate. */
export const support = (name: string) => readFileSync(join(import.meta.dir, name), "utf8");

/** The authority of the receivers. */
export const ca = support("ca.pem");

/** The key and certificate of receivers, and of proxies with TLS. */
export const tls = support("right.pem");

/** What ends with the test. */
export const stops: (() => unknown)[] = [];

/** What `afterEach` is for: ends all that a test began. */
export async function endAll(): Promise<void> {
  await Promise.all(stops.splice(0).map((stop) => stop()));
}

/** A receiver of this test. */
export async function receiver(
  answer: string | ((exchange: Exchange, index: number) => void) = http(200),
  options?: ListenerOptions,
): Promise<Listener> {
  const script = typeof answer === "function" ? answer : ({ socket }: Exchange) => void socket.write(answer);
  const listener = await listen(script, options);
  stops.push(() => listener.stop());
  return listener;
}

/** A proxy of this test. */
export async function proxying(
  answer?: ConnectAnswer | ((request: ConnectRequest, index: number) => ConnectAnswer),
  options?: Parameters<typeof startConnectProxy>[1],
): Promise<ConnectProxy> {
  const proxy = await startConnectProxy(
    typeof answer === "function" || answer === undefined ? answer : () => answer,
    options,
  );
  stops.push(() => proxy.stop());
  return proxy;
}

/** What a name resolves to; names that are not given do not exist. */
export const names =
  (table: Readonly<Record<string, readonly string[]>>) =>
  async (name: string): Promise<Address[]> => {
    const addresses = table[name];
    if (addresses === undefined) throw Object.assign(new Error(name), { code: "ENOTFOUND" });
    return addresses.map((address) => ({ address, family: address.includes(":") ? 6 : 4 }));
  };

/** What the names of these tests resolve to. */
export const RECEIVERS = names({
  "receiver.test": [PUBLIC],
  "other.test": [OTHER],
  "third.test": ["93.184.216.36"],
  "inside.test": ["10.0.0.1"],
  localhost: ["127.0.0.1"],
  "localhost.": ["127.0.0.1"],
  "sub.localhost": ["127.0.0.1"],
});

/** A sender behind this proxy. */
export function senderVia(proxy: { readonly port: number } | string, options: Partial<SenderOptions> = {}): Sender {
  const url = typeof proxy === "string" ? proxy : `http://127.0.0.1:${proxy.port}`;
  const sender = createSender({
    timeoutMs: 3000,
    allowNetworks: [],
    resolve: RECEIVERS,
    ca,
    proxy: new URL(url),
    ...options,
  });
  stops.push(() => sender.close());
  return sender;
}

/** A signed request, the same every time. */
export function requestTo(url: string, data: object = { fileId: "f_1" }): WebhookRequest {
  const id = "2c5ea4c0-4067-51fe-9e7f-1b1c3c8f9a10";
  const timestampMs = 1_760_000_000_000;
  const endpoint = { url: new URL(url), secrets: ["current", "previous"] as [string, string] };
  const body = buildBody(id, "file.created", timestampMs, data);
  const event = { id, type: "file.created", timestampMs, userId: "usr_42", endpoint, body };
  return buildRequest(event, "6e2f7f3e-8a3b-4d5c-9f60-0d1e2f3a4b5c", timestampMs);
}

/** An outcome without its duration. */
export function what({ durationMs, ...rest }: Outcome): object {
  expect(Number.isInteger(durationMs) && durationMs >= 0).toBe(true);
  return rest;
}

/** The outcomes, without their durations. */
export const response = (status: number) => ({ kind: "response", status, retryAfter: undefined });

export const failure = (code: string) => ({ kind: "failure", code });

export const fault = (cause: string) => ({ kind: "fault", code: "proxy", cause });

/** Headers by their lower-case names. */
export const headersOf = ({ headers }: { readonly headers: readonly (readonly [string, string])[] }) =>
  Object.fromEntries(headers.map(([name, value]) => [name.toLowerCase(), value]));
