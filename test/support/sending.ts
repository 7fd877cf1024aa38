/** Senders and the listeners they send to, which end with the test, and what their outcomes are. */
import { expect } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Outcome } from "../../src/delivery/outcome.ts";
import { buildBody, buildRequest, type WebhookRequest } from "../../src/delivery/request.ts";
import { type Address, type Network, parseNetwork } from "../../src/dns/address.ts";
import { createSender, type Sender, type SenderOptions } from "../../src/http/sender.ts";
import { type Exchange, type Listener, type ListenerOptions, listen } from "./listener.ts";

/** What senders may reach. */
export const LOOPBACK = [parseNetwork("127.0.0.0/8") as Network];

/** Bytes of an answer that are read. */
export const BODY_LIMIT = 16 * 1024;

/** A file of this folder: a certificate. */
export const support = (name: string) => readFileSync(join(import.meta.dir, name), "utf8");

const listeners: Listener[] = [];

const senders: Sender[] = [];

/** What `afterEach` is for: ends all that a test began. */
export async function endAll(): Promise<void> {
  for (const sender of senders.splice(0)) sender.close();
  await Promise.all(listeners.splice(0).map((listener) => listener.stop()));
}

/** A listener that answers every request with this text, or does what the function does. */
export async function answering(
  answer: string | Buffer | ((exchange: Exchange, index: number) => void),
  options?: ListenerOptions,
): Promise<Listener> {
  const script = typeof answer === "function" ? answer : ({ socket }: Exchange) => void socket.write(answer);
  const listener = await listen(script, options);
  listeners.push(listener);
  return listener;
}

/** A sender that may reach loopback. */
export function senderWith(options: Partial<SenderOptions> = {}): Sender {
  const sender = createSender({ timeoutMs: 3000, allowNetworks: LOOPBACK, ...options });
  senders.push(sender);
  return sender;
}

/** A signed request, the same every time. */
export function requestTo(url: string, data: object = { fileId: "f_1" }): WebhookRequest {
  const id = "2c5ea4c0-4067-51fe-9e7f-1b1c3c8f9a10";
  const timestampMs = 1_760_000_000_000;
  const event = {
    id,
    type: "file.created",
    timestampMs,
    userId: "usr_42",
    endpoint: { url: new URL(url), secrets: ["current", "previous"] as [string, string] },
    body: buildBody(id, "file.created", timestampMs, data),
  };
  return buildRequest(event, "6e2f7f3e-8a3b-4d5c-9f60-0d1e2f3a4b5c", 1_760_000_000_000);
}

/** A request to a listener. */
export const to = ({ port }: Listener, path = "/in") => requestTo(`http://127.0.0.1:${port}${path}`);

/** A resolver that finds these addresses, and what it was asked. */
export const resolvingTo = (...addresses: string[]) => {
  const asked: string[] = [];
  const resolve = async (name: string): Promise<Address[]> => {
    asked.push(name);
    return addresses.map((address) => ({ address, family: address.includes(":") ? 6 : 4 }));
  };
  return { resolve, asked };
};

/** A resolver that fails with this code. */
export const failingWith = (code: string) => () =>
  Promise.reject(Object.assign(new Error("the resolver's words"), { code }));

/** An outcome without its duration, which each test that is about time checks itself. */
export function what(outcome: Outcome): object {
  const { durationMs, ...rest } = outcome;
  expect(Number.isInteger(durationMs) && durationMs >= 0).toBe(true);
  return rest;
}

/** The outcomes, without their durations. */
export const response = (status: number, retryAfter?: string) => ({ kind: "response", status, retryAfter });

export const failure = (code: string) => ({ kind: "failure", code });

export const tls = (cause: string) => ({ kind: "failure", code: "tls", cause });

export const fault = (code: string) => ({ kind: "fault", code });

export const blocked = (range: string) => ({ kind: "blocked", range });

/** A name that leads to an address of that kind: as if there were no such name. */
export const inside = (cause: string) => ({ kind: "failure", code: "dns", cause });
