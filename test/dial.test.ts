/** How a connection comes about: which addresses are tried, in which order and for how long, and what is said when none works. */
import { afterEach, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { createServer as createTlsServer } from "node:tls";
import type { Outcome } from "../src/delivery/outcome.ts";
import { type Address, type Network, parseNetwork } from "../src/dns/address.ts";
import { createDial, type OpenSocket, type Target } from "../src/http/dial.ts";
import { createSender, type Sender, type SenderOptions } from "../src/http/sender.ts";
import { http } from "./support/listener.ts";

const support = (name: string) => readFileSync(join(import.meta.dir, "support", name), "utf8");
const ca = support("ca.pem");
const right = support("right.pem");
const FIRST = "127.0.0.2";
const SECOND = "127.0.0.3";

const open: { stop(): unknown }[] = [];
afterEach(async () => {
  for (const { stop } of open.splice(0).reverse()) await stop();
});

/** What a receiver saw and sees. */
interface Receiver {
  readonly port: number;
  readonly sockets: readonly Socket[];
  readonly serverNames: (string | false | undefined)[];
  /** Resolves when that connection is gone. */
  closed(index: number): Promise<void>;
}

/** Serve on an address, at a port that others already have on theirs. */
async function serve(server: Server, address: string, port: number): Promise<Receiver> {
  const sockets: Socket[] = [];
  const closings: Promise<void>[] = [];
  const serverNames: Receiver["serverNames"] = [];
  server.on("connection", (socket: Socket) => {
    sockets.push(socket.on("error", () => {}));
    closings.push(new Promise((resolve) => socket.once("close", () => resolve())));
  });
  server.on("tlsClientError", () => {});
  server.on("secureConnection", (socket) => serverNames.push(socket.servername));
  await new Promise<void>((resolve, reject) => server.once("error", reject).listen(port, address, resolve));
  open.push({
    stop: () => {
      for (const socket of sockets) socket.destroy();
      return new Promise((resolve) => server.close(resolve));
    },
  });
  const closed = async (index: number) => closings[index];
  return { port: (server.address() as AddressInfo).port, sockets, serverNames, closed };
}

const answer = (socket: Socket): void => void socket.on("error", () => {}).once("data", () => socket.write(http(200)));

/** Takes connections over TLS, and answers every request with 200. */
const answering = (address: string, { port = 0, pem = right } = {}) =>
  serve(createTlsServer({ key: pem, cert: pem }, answer), address, port);

/** Takes connections, and never says a word. */
const mute = (address: string, port = 0) =>
  serve(
    createServer((socket) => void socket.resume()),
    address,
    port,
  );

/** Takes connections, and begins to answer handshakes so much later. */
async function slow(address: string, port: number, ms: number): Promise<Receiver> {
  const server = createTlsServer({ key: right, cert: right }, answer);
  const inner = createServer((socket) => {
    socket.pause();
    setTimeout(() => server.emit("connection", socket), ms);
  });
  return serve(inner, address, port);
}

function senderTo(addresses: readonly string[], options: Partial<SenderOptions> = {}): Sender {
  const sender = createSender({
    timeoutMs: 5_000,
    allowNetworks: ["127.0.0.0/8", "::1", "255.255.255.255"].map((text) => parseNetwork(text) as Network),
    resolve: async () => addresses.map((address): Address => ({ address, family: address.includes(":") ? 6 : 4 })),
    ca,
    ...options,
  });
  open.push({ stop: () => sender.close() });
  return sender;
}

async function deliver(sender: Sender, url: string): Promise<Outcome> {
  const body = Buffer.from("{}");
  const target = new URL(url);
  return sender.send({ url: target, head: `Host: ${target.host}\r\nContent-Length: 2\r\n`, body }, "1");
}

describe("of the addresses of a name", () => {
  test("one that never answers holds up the next for 250 ms, and its socket ends when the other is open", async () => {
    const silent = await mute(FIRST);
    await answering(SECOND, silent);
    const outcome = await deliver(senderTo([FIRST, SECOND]), `https://receiver.test:${silent.port}/`);
    expect(outcome).toMatchObject({ kind: "response", status: 200 });
    expect(outcome.durationMs).toBeGreaterThanOrEqual(245);
    expect(outcome.durationMs).toBeLessThan(2_500);
    expect(silent.sockets).toHaveLength(1);
    await silent.closed(0);
  });

  test("one that is slow is waited for until the deadline when the others are dead", async () => {
    const { port } = await mute(SECOND);
    await slow(FIRST, port, 1_200);
    expect(await deliver(senderTo([FIRST, "127.0.0.4"]), `https://receiver.test:${port}/`)).toMatchObject({
      status: 200,
    });
    expect(await deliver(senderTo([FIRST, SECOND]), `https://receiver.test:${port}/`)).toMatchObject({ status: 200 });
    expect(await deliver(senderTo([SECOND, FIRST]), `https://receiver.test:${port}/`)).toMatchObject({ status: 200 });
  });

  test("the next is tried at once when one fails", async () => {
    const { port } = await answering("127.0.0.9");
    const addresses = Array.from({ length: 9 }, (_, index) => `127.0.0.${index + 1}`);
    const outcome = await deliver(senderTo(addresses), `https://receiver.test:${port}/`);
    expect(outcome).toMatchObject({ kind: "response", status: 200 });
    expect(outcome.durationMs).toBeLessThan(8 * 250);
  });

  test("all are let go at the deadline, or when the attempt is cancelled", async () => {
    const first = await mute(FIRST);
    const second = await mute(SECOND, first.port);
    const url = `https://receiver.test:${first.port}/`;
    expect(await deliver(senderTo([FIRST, SECOND], { timeoutMs: 600 }), url)).toMatchObject({ code: "timeout" });
    await Promise.all([first.closed(0), second.closed(0)]);

    const sender = senderTo([FIRST, SECOND], { timeoutMs: 60_000 });
    const attempt = deliver(sender, url);
    const both = () => first.sockets.length === 2 && second.sockets.length === 2;
    while (!both()) await new Promise(setImmediate);
    sender.cancel("1", "lock_lost");
    expect(await attempt).toMatchObject({ kind: "fault", code: "lock_lost" });
    await Promise.all([first.closed(1), second.closed(1)]);
  });

  test("that all fail, the one that says most decides", async () => {
    const untrusted = await answering(FIRST, { pem: support("self-signed.pem") });
    const reset = createServer((socket) => void socket.resetAndDestroy());
    const { port } = await serve(reset, SECOND, untrusted.port);
    const codeOf = async (...addresses: string[]) =>
      deliver(senderTo(addresses), `https://receiver.test:${port}/`).then(
        (outcome) => "code" in outcome && outcome.code,
      );
    const refused = "127.0.0.4";
    const noRoute = "255.255.255.255";
    expect(await codeOf(refused, FIRST)).toBe("tls");
    expect(await codeOf(FIRST, refused)).toBe("tls");
    expect(await codeOf(SECOND, FIRST, noRoute)).toBe("tls");
    expect(await codeOf(refused, SECOND)).toBe("connection_reset");
    expect(await codeOf(noRoute, refused)).toBe("connection_refused");
    expect(await codeOf(refused, noRoute)).toBe("connection_refused");
    expect(await codeOf(noRoute, noRoute)).toBe("unreachable");
  });

  describe("as a dial sees them,", () => {
    const target: Target = { origin: "", isSecure: false, host: "receiver.test", isLiteral: false, port: 1 };

    /** Dials with an opener that leaves its openings to the test. */
    function dialing(addresses: readonly string[]) {
      const begun: string[] = [];
      const fail: (() => void)[] = [];
      const succeed: (() => void)[] = [];
      const ended: string[] = [];
      const waiting: { count: number; resolve: () => void }[] = [];
      const openSocket: OpenSocket = (address, _, { opened, failed }) => {
        begun.push(address);
        fail.push(() => failed(new Error(address)));
        succeed.push(() => opened({ remoteAddress: address } as Socket));
        for (const { count, resolve } of waiting) if (begun.length >= count) resolve();
        return () => ended.push(address);
      };
      const found = addresses.map((address) => ({ address, family: address.includes(":") ? 6 : 4 }));
      const dial = createDial((_, __, callback) => callback(null, found), openSocket);
      const outcome = Promise.withResolvers<Socket | Error>();
      const end = dial(target, { lookedUp: () => {}, opened: outcome.resolve, failed: outcome.resolve });
      const started = (count: number) =>
        new Promise<void>((resolve) => (begun.length >= count ? resolve() : waiting.push({ count, resolve })));
      return { begun, fail, succeed, ended, end, started, outcome: outcome.promise };
    }

    test("the families take turns, beginning with that of the first", async () => {
      const dial = dialing(["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::2"]);
      for (let index = 0; index < 5; index++) dial.fail[index]?.();
      expect(dial.begun).toEqual(["192.0.2.1", "2001:db8::1", "192.0.2.2", "2001:db8::2", "192.0.2.3"]);
      expect(((await dial.outcome) as AggregateError).errors.map(({ message }) => message)).toEqual(dial.begun);
    });

    test("the first alone is tried when it is open in time, and no timer is left that tries the next", async () => {
      const dial = dialing(["192.0.2.1", "192.0.2.2"]);
      dial.succeed[0]?.();
      expect(await dial.outcome).toMatchObject({ remoteAddress: "192.0.2.1" });
      await Bun.sleep(300); // the next would come within 250 ms
      expect(dial.begun).toEqual(["192.0.2.1"]);
      expect(dial.ended).toEqual([]);
    });

    test("eight are open at once at the most, and one that fails makes room", async () => {
      const dial = dialing(Array.from({ length: 10 }, (_, index) => `192.0.2.${index}`));
      await dial.started(8);
      await Bun.sleep(600); // a ninth would come within 250 ms
      expect(dial.begun).toHaveLength(8);
      dial.fail[3]?.();
      expect(dial.begun).toHaveLength(9);
      dial.end();
      expect(dial.ended).toHaveLength(8);
    });
  });
});

describe("a host whose name ends in a dot", () => {
  test("is asked for, and its certificate judged, without it", async () => {
    const receiver = await answering(FIRST);
    const sender = senderTo([FIRST]);
    expect(await deliver(sender, `https://receiver.test.:${receiver.port}/`)).toMatchObject({ status: 200 });
    expect(await deliver(sender, `https://other.test.:${receiver.port}/`)).toMatchObject({ code: "tls" });
    expect(receiver.serverNames[0]).toBe("receiver.test");
  });
});

describe("an address without a route", () => {
  const script = `
    import { createSender } from "./src/http/sender.ts";
    import { parseNetwork } from "./src/dns/address.ts";
    const allowNetworks = ["2001:db8::/32", "192.0.2.0/24", "127.0.0.1", "::1"].map(parseNetwork);
    const names = {
      "six.test": [{ address: "2001:db8::1", family: 6 }],
      "four.test": [{ address: "192.0.2.1", family: 4 }],
      "both.test": [{ address: "192.0.2.1", family: 4 }, { address: "2001:db8::1", family: 6 }],
    };
    const sender = createSender({ timeoutMs: 5_000, allowNetworks, resolve: async (name) => names[name] });
    const codes = [];
    for (const host of ["six.test", "four.test", "both.test", "[2001:db8::1]", "192.0.2.1"])
      for (const scheme of ["http", "https"])
        codes.push((await sender.send({ url: new URL(scheme + "://" + host + "/"), head: "", body: Buffer.alloc(0) }, host)).code);
    console.log(JSON.stringify(codes));`;
  const isolate = ["unshare", "--map-root-user", "--net"];
  const mayIsolate = Bun.which("unshare") !== null && Bun.spawnSync([...isolate, "true"]).success;

  test.skipIf(!mayIsolate)("is unreachable, not refused (in a network namespace without any route)", async () => {
    const child = Bun.spawn([...isolate, process.execPath, "-e", script], {
      cwd: join(import.meta.dir, ".."),
      stdout: "pipe",
      stderr: "inherit",
    });
    expect(await new Response(child.stdout).json()).toEqual(Array(10).fill("unreachable"));
  });

  test("is unreachable, not refused (where every machine has none for TCP)", async () => {
    expect(await deliver(senderTo([]), "http://255.255.255.255:9/")).toMatchObject({ code: "unreachable" });
    expect(await deliver(senderTo(["255.255.255.255"]), "https://receiver.test/")).toMatchObject({
      code: "unreachable",
    });
  });

  test("is not what a port is where nobody listens: that is refused", async () => {
    expect(await deliver(senderTo([]), "http://127.0.0.1:1/")).toMatchObject({ code: "connection_refused" });
    expect(await deliver(senderTo(["127.0.0.1"]), "https://receiver.test:1/")).toMatchObject({
      code: "connection_refused",
    });
  });
});
