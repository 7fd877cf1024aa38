/** A Valkey that is found by asking Sentinels, both with a password. How one is replaced: test/chaos/valkey.ts. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { Queue } from "bullmq";
import { findFreePort } from "../src/dev/cluster.ts";
import { startValkey, type ThrowawayValkey } from "../src/dev/valkey.ts";
import { createFluxhook } from "../src/index.ts";
import { connectValkey } from "../src/valkey/connection.ts";
import { reachValkey } from "../src/valkey/reach.ts";
import { addressOf } from "../src/valkey/url.ts";
import { createCommandProcess } from "./support/command.ts";
import { PRIMARY, type Sentinels, startSentinels, TLS } from "./support/sentinels.ts";

const password = "of-valkey";
const ownPassword = "of-sentinels";
const NOBODY = "127.0.0.1:1";
let valkey: ThrowawayValkey;
let sentinels: Sentinels;
let url: string;
/** The same, of other Sentinels, or with another name. */
const via = (hosts: string, name = PRIMARY) =>
  `redis+sentinel://:${password}@${hosts}/${name}/2?password=${ownPassword}`;

beforeAll(async () => {
  valkey = await startValkey({ password });
  sentinels = await startSentinels(1, valkey.port, { password, ownPassword });
  url = via(sentinels.hosts);
});
afterAll(async () => {
  await sentinels.stop();
  await valkey.stop();
});

test("they lead to the primary and the database, also when the first of them is gone", async () => {
  for (const address of [url, via(`${NOBODY},${sentinels.hosts}`)]) {
    const connection = connectValkey(address, "test:sentinel", { info() {}, warn() {} });
    expect(await connection.config("GET", "port")).toEqual(["port", String(valkey.port)]);
    expect(await connection.client("INFO")).toContain(" db=2 ");
    connection.disconnect();
  }
});

test("the client for backends, and a plain one of BullMQ, enqueue on the same queue", async () => {
  const fluxhook = createFluxhook({ valkeyUrl: url });
  const endpoint = { url: "https://example.com/", secret: "s3cret" };
  const { id } = await fluxhook.enqueue({ event: "file.created", userId: "usr_1", endpoint, data: {} });
  const queue = new Queue("webhooks", { connection: addressOf(url) });
  const plain = await queue.add("file.created", {});
  expect((await queue.getWaiting()).map((job) => job.id)).toEqual([id, plain.id]);
  await queue.close();
  await fluxhook.close();
});

test("one that cannot be reached is said to be so in time, and why", async () => {
  expect(await reachValkey(via(NOBODY), "test:sentinel")).toMatchObject({ ok: false });
  const startedAt = performance.now();
  const unknown = await reachValkey(via(sentinels.hosts, "another"), "test:sentinel");
  expect(unknown).toEqual({ ok: false, reason: expect.stringContaining("entinel") });
  expect(performance.now() - startedAt).toBeLessThan(8_000);
  const reached = await reachValkey(url, "test:sentinel");
  expect(reached.ok).toBe(true);
  if (reached.ok) reached.valkey.disconnect();
});

test("Valkey, and Sentinels, are reached over TLS, and not when their certificate is nobody's", async () => {
  const port = await findFreePort();
  const plain = connectValkey(valkey.url, "test:sentinel", { info() {}, warn() {} });
  await plain.config("SET", ...Object.entries(TLS).flat());
  await plain.config("SET", "tls-port", port);
  plain.disconnect();
  const others = await startSentinels(1, port, { password, ownPassword, tls: true });
  const urls = [`rediss://:${password}@127.0.0.1:${port}`, via(others.hosts).replace("redis", "rediss")];
  for (const address of urls) {
    for (const trusted of [TLS["tls-ca-cert-file"], ""]) {
      const run = createCommandProcess({ VALKEY_URL: address, NODE_EXTRA_CA_CERTS: trusted });
      const { code } = await run(["attempts", "usr_1"]);
      expect([address, trusted, code]).toEqual([address, trusted, trusted === "" ? 69 : 0]);
    }
  }
  await others.stop();
});
