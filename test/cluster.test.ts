/** Connections into a Valkey Cluster, each to the owner of one slot. How nodes are replaced: test/chaos/cluster.long.ts. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { type Cluster, startCluster } from "../src/dev/cluster.ts";
import { slotOf } from "../src/valkey/cluster.ts";
import { connectValkey } from "../src/valkey/connection.ts";
import { reachValkey } from "../src/valkey/reach.ts";
import { isClusterUrl, isValkeyUrl, maskValkeyUrl } from "../src/valkey/url.ts";
import { TLS } from "./support/sentinels.ts";

const quiet = { info() {}, warn() {} };
let cluster: Cluster;
beforeAll(async () => {
  cluster = await startCluster({ replicas: 0, password: "p@ss/word" });
});
afterAll(() => cluster.stop());

/** The port of the node that a connection leads to. */
async function portOf(key: string): Promise<number> {
  const connection = connectValkey(cluster.url, "test:cluster", quiet, { key });
  const [, port] = (await connection.config("GET", "port")) as [string, string];
  connection.disconnect();
  return Number(port);
}

test("a key's slot is the cluster's own, whatever braces it has", async () => {
  const [{ client }] = cluster.nodes as [(typeof cluster.nodes)[number]];
  const keys = ["foo", "webhooks-{3}", "bull:webhooks-{3}:wait", "{}a", "{}{a}", "a{{b}c}", "a}{b", "{é}ü", "", "{"];
  for (const key of keys) expect([key, slotOf(key)]).toEqual([key, await client.cluster("KEYSLOT", key)]);
});

describe("a connection", () => {
  test("leads to the node that owns the slot of its key", async () => {
    for (const key of ["webhooks-{0}", "webhooks-{1}", "webhooks-{2}", "webhooks-{3}"]) {
      expect(await portOf(key)).toBe((await cluster.ownerOf(slotOf(key)))?.port as number);
    }
  });

  test("finds it from any one node, and when the first that are named do not answer", async () => {
    const [, second] = cluster.nodes;
    const url = `redis+cluster://:p%40ss%2Fword@127.0.0.1:1,127.0.0.1:${second?.port}`;
    const reached = await reachValkey(url, "test:cluster", "webhooks-{0}");
    expect(reached.ok).toBe(true);
    if (!reached.ok) return;
    expect(await reached.valkey.set("bull:webhooks-{0}:probe", "1")).toBe("OK");
    reached.valkey.disconnect();
  });

  test("keeps a log line ahead of its acknowledgement, however often it is cut", async () => {
    const connection = connectValkey(cluster.url, "test:cluster", quiet, { key: "{order}" });
    const pairs: Promise<unknown>[] = [];
    for (let cut = 0; cut < 10; cut++) {
      for (let i = 0; i < 200; i++) {
        const id = `${cut}.${i}`;
        const line = connection.set(`{order}:${id}`, "line");
        const acknowledged = connection.eval('return redis.call("EXISTS", KEYS[1])', 1, `{order}:${id}`);
        pairs.push(Promise.all([line, acknowledged]));
        if (i === 100) connection.stream?.destroy();
        if (i % 20 === 0) await new Promise((resolve) => setImmediate(resolve));
      }
    }
    expect(new Set((await Promise.all(pairs)).map(String))).toEqual(new Set(["OK,1"]));
    connection.disconnect();
  });
});

describe("reaching a cluster fails in time, and says why, when", () => {
  test("no node answers", async () => {
    const startedAt = performance.now();
    expect(await reachValkey("redis+cluster://127.0.0.1:1", "test:cluster", "{0}")).toEqual({
      ok: false,
      reason: "nothing listens there",
    });
    expect(performance.now() - startedAt).toBeLessThan(8_000);
  });

  test("the password is wrong", async () => {
    const url = cluster.url.replace("p%40ss", "wrong");
    expect(await reachValkey(url, "test:cluster", "{0}")).toMatchObject({
      ok: false,
      reason: expect.stringMatching(/^WRONGPASS /),
    });
  });

  test("it is a Valkey without a cluster", async () => {
    const { startValkey } = await import("../src/dev/valkey.ts");
    const alone = await startValkey();
    const reached = await reachValkey(`redis+cluster://127.0.0.1:${alone.port}`, "test:cluster", "{0}");
    expect(reached).toMatchObject({ ok: false, reason: expect.stringContaining("cluster support disabled") });
    await alone.stop();
  });
});

test("a cluster is reached over TLS with its password, and not when its certificate is nobody's", async () => {
  const safe = await startCluster({ primaries: 3, replicas: 0, password: "p@ss/word", tls: TLS });
  const program = join(import.meta.dir, "support/cluster-program.ts");
  for (const trusted of [TLS["tls-ca-cert-file"], ""]) {
    const child = Bun.spawn([process.execPath, program, safe.url], {
      env: { ...process.env, NODE_EXTRA_CA_CERTS: trusted }, // read when a process starts
      stdio: ["ignore", "pipe", "inherit"],
    });
    const said = await new Response(child.stdout).text();
    expect(said.trim()).toMatch(trusted === "" ? /certificate/ : /^OK 3 nodes$/);
  }
  await safe.stop();
});

describe("the URL of a cluster", () => {
  test.each(["redis+cluster://a", "rediss+cluster://u:p@a:7000,[::1]:7001/", "redis+cluster://:p%40@a,b"])(
    "may be %s",
    (url) => {
      expect([isValkeyUrl(url), isClusterUrl(url)]).toEqual([true, true]);
    },
  );

  test.each([
    "redis+cluster://",
    "redis+cluster://a/1",
    "redis+cluster://a?family=4",
    "redis+cluster://a:0",
    "redis+cluster://a,",
  ])("may not be %s", (url) => {
    expect(isValkeyUrl(url)).toBe(false);
  });

  test("is shown without its password", () => {
    expect(maskValkeyUrl("rediss+cluster://u:hush@a:1,b")).toBe("rediss+cluster://u:***@a:1,b");
  });
});
