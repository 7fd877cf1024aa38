/**
 * Deliveries through real egress proxies: what each verdict is made of, and a proxy that dies under load. Not run where the
 * proxies are not installed.
 */
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { errorCode, type Outcome } from "../../src/delivery/outcome.ts";
import { buildBody, buildRequest, type WebhookRequest } from "../../src/delivery/request.ts";
import { type Network, parseNetwork } from "../../src/dns/address.ts";
import { createSender, type Sender, type SenderOptions } from "../../src/http/sender.ts";
import { expectFlawless, unexplained } from "../support/books.ts";
import { chaos, type RigOptions, SETTLE_MS, SLOTS } from "../support/chaos.ts";
import { type Exchange, http, type Listener, listen } from "../support/listener.ts";
import { findSnippet } from "../support/snippets.ts";
import {
  isInstalled,
  type SystemProxy,
  type SystemProxyName,
  type SystemProxyOptions,
  startSystemProxy,
} from "../support/system-proxies.ts";

const PER_SECOND = 25;
const AWAY_MS = 3_000;
const BEFORE_MS = 5_000; // how long before an outage an attempt may have begun that was in flight then
const TEST_MS = 60_000; // on a busy machine; it takes a second
const USER = "fluxhook:s3cret";
const pem = (name: string) => readFileSync(join(import.meta.dir, "../support", name), "utf8");
const EVERYTHING = ["0.0.0.0/0", "::/0"].map((network) => parseNetwork(network) as Network);
const RECEIVERS: Readonly<Record<string, string>> = { "receiver.test": "127.0.0.1", "dead.test": "127.0.0.2" };

interface Scene {
  readonly plain: Listener;
  readonly secure: Listener;
  readonly deadPort: number;
  start(options?: Partial<SystemProxyOptions>): Promise<SystemProxy>;
  send(proxy: SystemProxy, url: string, user?: string): Promise<Outcome>;
}

/** Two receivers, a port that nobody listens on, and what starts proxies in front of them. */
async function withScene(name: SystemProxyName, run: (scene: Scene) => Promise<void>): Promise<void> {
  const ends: (() => unknown)[] = [];
  const answer = ({ socket }: Exchange): void => void socket.write(http(200));
  const plain = await listen(answer);
  const secure = await listen(answer, { tls: pem("right.pem") });
  const senders = new Map<string, Sender>();
  const deadPort = await closedPort();
  try {
    await run({
      plain,
      secure,
      deadPort,
      async start(options = {}) {
        const proxy = await startSystemProxy(name, { ports: [plain.port, secure.port, deadPort], ...options });
        ends.push(() => proxy.stop());
        return proxy;
      },
      send({ port }, url, user = "") {
        const place = `http://${user}${user && "@"}127.0.0.1:${port}`;
        const sender = senders.get(place) ?? senderVia(place);
        senders.set(place, sender);
        return sender.send(requestTo(url), url);
      },
    });
  } finally {
    for (const sender of senders.values()) sender.close();
    for (const end of ends) await end();
    await Promise.all([plain.stop(), secure.stop()]);
  }
}

function senderVia(url: string, options: Partial<SenderOptions> = {}): Sender {
  return createSender({
    timeoutMs: 10_000,
    allowNetworks: [parseNetwork("127.0.0.0/8") as Network],
    resolve: async (name) => [{ address: RECEIVERS[name] as string, family: 4 }],
    ca: pem("ca.pem"),
    proxy: new URL(url),
    ...options,
  });
}

function requestTo(url: string): WebhookRequest {
  const id = crypto.randomUUID();
  const endpoint = { url: new URL(url), secrets: ["s3cret-of-the-test"] as [string] };
  const body = buildBody(id, "file.created", Date.now(), { text: "x".repeat(200_000) });
  const event = { id, type: "file.created", timestampMs: Date.now(), userId: "usr_42", endpoint, body };
  return buildRequest(event, crypto.randomUUID(), Date.now());
}

async function closedPort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** In the place of a test that cannot run: it counts as skipped, never as passed. */
function proxyTest(title: string, name: SystemProxyName, run: (scene: Scene) => Promise<void>): void {
  if (isInstalled(name)) test.concurrent(title, () => withScene(name, run), TEST_MS);
  else test.skip(`${title}: ${name} is not installed`, () => {});
}

function proxyChaos(title: string, name: SystemProxyName, options: RigOptions, run: Parameters<typeof chaos>[2]): void {
  if (isInstalled(name)) chaos(title, options, run);
  else test.skip(`${title}: ${name} is not installed`, () => {});
}

/** What tinyproxy cannot do, and what docs/operations.md tells operators to add to squid's rules. */
function describeSquid(): void {
  const guide = (marker: string) =>
    findSnippet("docs/operations.md", "squid", { heading: "Egress proxy", marker }).trimEnd().split("\n");

  proxyTest("reaches http:// endpoints with the line of the guide", "squid", async (scene) => {
    const proxy = await scene.start({ ports: [443], lines: guide("SSL_ports") });
    expect(errorCode(await scene.send(proxy, `http://receiver.test:${scene.plain.port}/`))).toBeNull();
  });

  proxyTest("carries http:// and https:// over TLS of its own", "squid", async (scene) => {
    const proxy = await scene.start({ tls: pem("right.pem") });
    const sender = senderVia(`https://127.0.0.1:${proxy.port}`);
    for (const { port } of [scene.plain, scene.secure]) {
      const scheme = port === scene.plain.port ? "http" : "https";
      for (let i = 0; i < 3; i++) {
        expect(errorCode(await sender.send(requestTo(`${scheme}://receiver.test:${port}/`), `${i}`))).toBeNull();
      }
    }
    sender.close();
    expect([scene.plain.connections, scene.secure.connections]).toEqual([1, 1]);
  });

  proxyTest("that resolves refuses names that lead inside, with the lines of the guide", "squid", async (scene) => {
    const proxy = await scene.start({ lines: guide("inside") });
    const sender = senderVia(`http://127.0.0.1:${proxy.port}`, { proxyResolves: true, timeoutMs: 1_000 });
    const inside = await sender.send(requestTo(`http://localhost:${scene.plain.port}/`), "1");
    expect(inside).toMatchObject({ kind: "fault", code: "proxy", cause: "status_403" });
    expect(scene.plain.connections).toBe(0);
    for (const outside of ["198.51.100.7", "[2001:db8::7]"]) {
      const open = senderVia(`http://127.0.0.1:${proxy.port}`, { timeoutMs: 1_000, allowNetworks: EVERYTHING });
      const outcome = await open.send(requestTo(`http://${outside}:${scene.plain.port}/`), "1");
      expect(outcome).not.toMatchObject({ cause: "status_403" });
      open.close();
    }
    sender.close();
  });
}

for (const name of ["squid", "tinyproxy"] as const) {
  describe(`the egress proxy ${name}`, () => {
    proxyTest("carries http:// and https:// to the vetted address, and hides its password", name, async (scene) => {
      const { plain, secure } = scene;
      const proxy = await scene.start({ user: USER });
      for (const url of [`http://receiver.test:${plain.port}/in`, `https://receiver.test:${secure.port}/in`]) {
        for (let i = 0; i < 3; i++) expect(errorCode(await scene.send(proxy, url, USER))).toBeNull();
      }
      for (const { connections, exchanges, port } of [plain, secure]) {
        expect([connections, exchanges.length]).toEqual([1, 3]); // its tunnel was kept
        for (const { headers } of exchanges) {
          expect(headers[0]).toEqual(["Host", `receiver.test:${port}`]);
          expect(headers.filter(([header]) => /proxy|via|forwarded/i.test(header))).toEqual([]);
        }
      }
    });

    proxyTest("that wants another password is our fault", name, async (scene) => {
      const proxy = await scene.start({ user: USER });
      for (const user of ["", "fluxhook:wrong"]) {
        const outcome = await scene.send(proxy, `http://receiver.test:${scene.plain.port}/`, user);
        const cause = name === "tinyproxy" && user !== "" ? "status_401" : "status_407";
        expect(outcome).toMatchObject({ kind: "fault", code: "proxy", cause });
      }
      expect(scene.plain.connections).toBe(0);
    });

    proxyTest("that allows CONNECT to the port of https:// alone is our fault at http://", name, async (scene) => {
      const { plain, secure } = scene;
      const proxy = await scene.start({ ports: [secure.port] });
      expect(errorCode(await scene.send(proxy, `https://receiver.test:${secure.port}/`))).toBeNull();
      const outcome = await scene.send(proxy, `http://receiver.test:${plain.port}/`);
      expect(outcome).toMatchObject({ kind: "fault", code: "proxy", cause: "status_403" });
    });

    if (name === "squid") describeSquid();

    proxyTest("charges a dead receiver while others get through, and nobody before", name, async (scene) => {
      const proxy = await scene.start();
      const dead = `http://dead.test:${scene.deadPort}/`;
      expect(await scene.send(proxy, dead)).toMatchObject({ kind: "fault", code: "proxy" });
      expect(errorCode(await scene.send(proxy, `http://receiver.test:${scene.plain.port}/`))).toBeNull();
      expect(await scene.send(proxy, dead)).toMatchObject({ kind: "failure", code: "unreachable" });
    });

    proxyChaos("dies under load, loses nothing and costs no attempt", name, { workers: 0 }, async (rig) => {
      const receiverPort = Number(new URL(rig.receiverUrl).port);
      const proxy = await startSystemProxy(name, { user: USER, ports: [receiverPort] });
      rig.atEnd(() => proxy.stop());
      const worker = await rig.startWorker({ WEBHOOK_PROXY: `http://${USER}@127.0.0.1:${proxy.port}` });
      const stop = rig.load(PER_SECOND);
      await Bun.sleep(rig.chance.between(1_500, 2_500));
      const from = Date.now();
      await proxy.kill();
      await Bun.sleep(AWAY_MS);
      await proxy.restart();
      const to = Date.now();
      await Bun.sleep(1_000);
      await stop();
      await rig.settled(SETTLE_MS);

      const attempts = worker.lines.filter(({ message }) => message === "delivery.attempted");
      const faults = attempts.filter(({ error }) => error === "proxy");
      expect(faults.length).toBeGreaterThan(0);
      expect(new Set(faults.map(({ verdict }) => verdict))).toEqual(new Set(["defer"]));
      expect(worker.output()).not.toContain("s3cret");
      // What was in a tunnel as it broke may have arrived: those alone are charged, repeated, or answered in vain.
      const { charged, repeated, unlogged, invented, ...balance } = await rig.closeBooks();
      expectFlawless(balance);
      const broken = charged.filter(({ success }) => !success);
      expect(broken.filter(({ error }) => error !== "connection_reset")).toEqual([]);
      expect(broken.length).toBeLessThanOrEqual(SLOTS);
      const isBroken = new Set(broken.map(({ delivery }) => delivery)); // and need not have reached the receiver
      expect(invented.filter(({ delivery }) => !isBroken.has(delivery))).toEqual([]);
      const again = new Set(broken.map(({ id }) => id)); // and are delivered by a later attempt
      expect(charged.filter(({ id }) => !again.has(id))).toEqual([]);
      expect(unexplained([...repeated, ...unlogged], [{ from, to }], BEFORE_MS)).toEqual([]);
      rig.figures({ faults: faults.length, charged: charged.length, repeated: repeated.length });
    });
  });
}
