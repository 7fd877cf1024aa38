/** What a URL itself may say about where to go, and what becomes of those that are refused. */
import { afterEach, describe, expect, test } from "bun:test";
import { describeOutcome, errorCode } from "../src/delivery/outcome.ts";
import type { WebhookRequest } from "../src/delivery/request.ts";
import { parseNetwork } from "../src/dns/address.ts";
import { type DestinationRules, parsePortRange, portOf, refusalOf } from "../src/http/destination.ts";
import { createSender } from "../src/http/sender.ts";
import { type Listener, listen } from "./support/listener.ts";

const LOOPBACK = [parseNetwork("127.0.0.0/8") ?? expect.unreachable()];
const stops: (() => unknown)[] = [];

afterEach(async () => {
  for (const stop of stops.splice(0)) await stop();
});

async function receiver(): Promise<Listener> {
  const listener = await listen(({ socket }) => void socket.write("HTTP/1.1 204 No Content\r\n\r\n"));
  stops.push(listener.stop);
  return listener;
}

async function send(url: string, rules: Partial<DestinationRules>) {
  const asked: string[] = [];
  const resolve = async (name: string) => {
    asked.push(name);
    return [{ address: "127.0.0.1", family: 4 as const }];
  };
  const sender = createSender({ timeoutMs: 5_000, allowNetworks: LOOPBACK, resolve, ...rules });
  stops.push(sender.close);
  const request: WebhookRequest = {
    url: new URL(url),
    head: "Host: x\r\nContent-Length: 2\r\n",
    body: Buffer.from("{}"),
  };
  return { outcome: await sender.send(request, "1"), asked };
}

describe("a port that is not among those allowed", () => {
  test.each(["127.0.0.1", "receiver.test"])("is called by nobody, and no name is looked up: %s", async (host) => {
    const listener = await receiver();
    const { port } = listener;
    const { outcome, asked } = await send(`http://${host}:${port}/`, { allowPorts: [[443, 443]] });
    expect(outcome).toEqual({ kind: "blocked", code: "blocked_port", durationMs: 0 });
    expect([errorCode(outcome), describeOutcome(outcome)]).toEqual(["blocked_port", "blocked_port"]);
    expect(asked).toEqual([]);
    expect(listener.connections).toBe(0);
  });

  test("is called when a range has it", async () => {
    const { port } = await receiver();
    const { outcome } = await send(`http://receiver.test:${port}/`, {
      allowPorts: [
        [443, 443],
        [port, 65_535],
      ],
    });
    expect(outcome).toMatchObject({ kind: "response", status: 204 });
  });

  test.each([
    ["http://a.example/", [80, 80], undefined],
    ["https://a.example/", [443, 443], undefined],
    ["https://a.example:443/", [443, 443], undefined],
    ["http://a.example/", [443, 443], "blocked_port"],
    ["http://a.example:443/", [80, 80], "blocked_port"],
    ["http://a.example:8000/", [8000, 8999], undefined],
    ["http://a.example:8999/", [8000, 8999], undefined],
    ["http://a.example:7999/", [8000, 8999], "blocked_port"],
    ["http://a.example:9000/", [8000, 8999], "blocked_port"],
  ] as const)("may be the one of the scheme: %s with %j", (url, range, code) => {
    expect(refusalOf(new URL(url), { allowNetworks: [], allowPorts: [range] })?.code).toBe(code as never);
  });
});

describe("a URL without TLS", () => {
  test("is called by nobody when https is required", async () => {
    const listener = await receiver();
    const { port } = listener;
    const { outcome, asked } = await send(`http://receiver.test:${port}/`, { requireHttps: true });
    expect(outcome).toEqual({ kind: "blocked", code: "https_required", durationMs: 0 });
    expect(errorCode(outcome)).toBe("https_required");
    expect(asked).toEqual([]);
    expect(listener.connections).toBe(0);
  });

  test("is the only one that is refused then", () => {
    const rules = { allowNetworks: [], requireHttps: true };
    expect(refusalOf(new URL("https://a.example:8443/"), rules)).toBeUndefined();
    expect(refusalOf(new URL("HTTP://a.example:443/"), rules)?.code).toBe("https_required");
  });
});

test("an address inside is told first, so that probes show as what they are", () => {
  const rules = { allowNetworks: [], allowPorts: [[443, 443]], requireHttps: true } as const;
  expect(refusalOf(new URL("http://169.254.169.254:22/"), rules)).toEqual({ kind: "blocked", range: "linkLocal" });
});

test("an address of one's own is called by nobody when its network is denied, also as a name's", async () => {
  const listener = await receiver();
  const { port } = listener;
  const denyNetworks = [parseNetwork("127.0.0.0/24") ?? expect.unreachable()];
  const literal = await send(`http://127.0.0.1:${port}/`, { denyNetworks });
  expect(literal.outcome).toEqual({ kind: "blocked", range: "denied", durationMs: 0 });
  const name = await send(`http://receiver.test:${port}/`, { denyNetworks });
  expect(name.outcome).toMatchObject({ kind: "failure", code: "dns", cause: "denied" });
  expect(listener.connections).toBe(0);
});

describe("a range of ports", () => {
  test.each([
    ["443", [443, 443]],
    ["1-65535", [1, 65_535]],
    ["0080", [80, 80]],
  ])("is read from %s", (text, range) => {
    expect(parsePortRange(text)).toEqual(range as never);
  });

  test.each(["", "0", "65536", "-1", "80-", "80-79", "a", "80,81", " 80", "80 ", "1e3", "080000"])(
    "is not %p",
    (text) => {
      expect(parsePortRange(text)).toBeUndefined();
    },
  );
});

test("the port of a URL is that of its scheme unless it says another", () => {
  const ports = ["http://a/", "https://a/", "https://a:80/", "http://[::1]:8080/"].map((url) => portOf(new URL(url)));
  expect(ports).toEqual([80, 443, 80, 8080]);
});
