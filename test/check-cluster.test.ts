/** `--check` over several shards: in a cluster, and on Valkeys of their own. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Queue } from "bullmq";
import { type Cluster, startCluster } from "../src/dev/cluster.ts";
import { startValkey, type ThrowawayValkey } from "../src/dev/valkey.ts";
import { judgeClusterSettings } from "../src/settings/cluster-check.ts";
import { slotOf } from "../src/valkey/cluster.ts";
import { connectValkey } from "../src/valkey/connection.ts";

const root = join(import.meta.dir, "..");
const cwd = mkdtempSync(join(tmpdir(), "fluxhook-check-cluster-")); // Bun would read a .env of ours
const PASSWORD = "s3cr3t-that-must-not-leak";
let cluster: Cluster;
let alone: ThrowawayValkey;
let other: ThrowawayValkey;

beforeAll(async () => {
  [cluster, alone, other] = await Promise.all([startCluster({ password: PASSWORD }), startValkey(), startValkey()]);
});
afterAll(async () => {
  await Promise.all([cluster.stop(), alone.stop(), other.stop()]);
  rmSync(cwd, { recursive: true });
});

async function check(env: Record<string, string>, program = "worker") {
  const child = Bun.spawn([process.execPath, join(root, `src/${program}.ts`), "--check"], {
    cwd,
    env: { PATH: process.env.PATH ?? "", ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const [out, code] = await Promise.all([new Response(child.stdout).text(), child.exited]);
  expect(out).not.toContain(PASSWORD);
  const sectionOf = (title: string) => out.split(`${title}\n`)[1]?.split(/\n\n|\n(?=No problems)/)[0];
  return { out, code, notes: sectionOf("Notes"), problems: sectionOf("Problems") };
}

describe("in a cluster --check", () => {
  test.each(["worker", "board"])("shows each node once, with its shards (%s)", async (program) => {
    const { out, code, notes } = await check({ VALKEY_URL: cluster.url, WEBHOOK_SHARDS: "6" }, program);
    const titles = [...out.matchAll(/^Valkey at (127\.0\.0\.1:\d+), with shards? (.+)$/gm)];
    const owners = await Promise.all(
      Array.from({ length: 6 }, async (_, index) => (await cluster.ownerOf(slotOf(`webhooks-{${index}}`)))?.port),
    );
    expect(titles.map(([, place, shards]) => [place, shards?.replace(" and ", ", ")]).sort()).toEqual(
      [...new Set(owners)]
        .map((port) => [
          `127.0.0.1:${port}`,
          owners.flatMap((owner, index) => (owner === port ? [String(index)] : [])).join(", "),
        ])
        .sort(),
    );
    expect(out.match(/^ {2}eviction +noeviction$/gm)).toHaveLength(titles.length);
    expect([code, notes, out.endsWith("No problems found.\n")]).toEqual([0, undefined, true]);
  });

  test("notes settings that make a dead node cost more, once when all nodes have them", async () => {
    const set = (name: string, value: string, nodes = cluster.nodes) =>
      Promise.all(nodes.map(({ client }) => client.config("SET", name, value)));
    const owner = await cluster.ownerOf(slotOf("webhooks-{0}"));
    await set("cluster-require-full-coverage", "yes");
    await set(
      "min-replicas-to-write",
      "1",
      cluster.nodes.filter((node) => node === owner),
    );
    const { notes, code } = await check({ VALKEY_URL: cluster.url, WEBHOOK_SHARDS: "24" });
    await set("cluster-require-full-coverage", "no");
    await set("min-replicas-to-write", "0");
    expect(notes?.split("\n")).toEqual([
      "  cluster-require-full-coverage is yes: one dead primary without a replica stops all shards; set it to no",
      expect.stringMatching(
        new RegExp(`^  127\\.0\\.0\\.1:${owner?.port}: min-replicas-to-write is set, with one replica`),
      ),
    ]);
    expect(code).toBe(0);
  });

  test("names a right that is missing in all shards once, and passes with what the docs grant", async () => {
    const grant = (...rules: string[]) =>
      Promise.all(
        cluster.nodes.map(({ client }) => client.acl("SETUSER", "limited", "reset", "on", ">pass", "-@all", ...rules)),
      );
    const url = cluster.url.replace(/\/\/[^@]*@/, "//limited:pass@");
    const scaling = await Bun.file(join(root, "docs/scaling.md")).text();
    const rights = /all that is added is\s+`([^`]+)`/.exec(scaling)?.[1]?.split(" ") ?? [];
    const operations = await Bun.file(join(root, "docs/operations.md")).text();
    const recipe = /^ACL SETUSER fluxhook-worker on \S+ resetkeys \S+ (.+)$/m.exec(operations)?.[1]?.split(" ") ?? [];
    await grant(...recipe, ...rights);
    const full = await check({ VALKEY_URL: url, WEBHOOK_SHARDS: "6" });
    expect([full.problems, full.code]).toEqual([undefined, 0]);
    await grant(...recipe, ...rights, "-bzpopmin", "resetkeys", "~bull:*");
    const { problems, code } = await check({ VALKEY_URL: url, WEBHOOK_SHARDS: "6" });
    const lines = problems?.split("\n").map((line) => line.trim().replace("The Valkey user may not ", "")) ?? [];
    expect(lines).toContain("use the keys webhooks:log:*: grant ~webhooks:log:*");
    expect(lines).toContain("use the keys webhooks:holds:webhooks-{*}: grant ~webhooks:holds:webhooks-{*}");
    expect(new Set(lines).size).toBe(lines.length);
    expect(lines.filter((line) => line.startsWith("run BZPOPMIN"))).toHaveLength(1);
    expect(code).toBe(1);
  });

  test("notes a change of the number of shards that has not ended, unless the settings name it", async () => {
    const env = { VALKEY_URL: cluster.url, WEBHOOK_SHARDS: "6", WEBHOOK_QUEUE: "grown" };
    const record = "webhooks:homes:grown-{0}";
    const connection = connectValkey(cluster.url, "test:check", { info() {}, warn() {} }, { key: record });
    await connection.set(record, "2 3 6");
    const { notes, code } = await check({ ...env, WEBHOOK_SHARDS_BEFORE: "3" });
    expect([notes, code]).toEqual([
      "  Users may have endpoints where 2 shards had them: run fluxhook endpoints rehome --from 2 until it finds nothing to move",
      0,
    ]);
    await connection.set(record, "6");
    expect((await check(env, "board")).notes).toBeUndefined();
    connection.disconnect();
  });

  test("finds events in shards that the settings leave out", async () => {
    const connection = connectValkey(cluster.url, "test:check", { info() {}, warn() {} }, { key: "left-{20}" });
    const queue = new Queue("left-{20}", { connection });
    await queue.add("file.created", {});
    const env = { VALKEY_URL: cluster.url, WEBHOOK_SHARDS: "3", WEBHOOK_QUEUE: "left" };
    const { problems, code } = await check(env);
    expect(problems).toBe("  1 event waits in shard 20, which nobody serves: WEBHOOK_SHARDS is too small\n");
    expect(code).toBe(1);

    const shrinking = await check({ ...env, WEBHOOK_SHARDS_BEFORE: "21" });
    expect(shrinking.out).toMatch(/^Valkey at .* shards? .*\b20$/m);
    expect([shrinking.problems, shrinking.code]).toEqual([undefined, 0]);
    await queue.close();
    connection.disconnect();
  });
});

describe("--check ends with 78", () => {
  test("when redis:// leads to a node of a cluster", async () => {
    const [node] = cluster.nodes;
    const { problems, code } = await check({ VALKEY_URL: `redis://:${PASSWORD}@127.0.0.1:${node?.port}` });
    expect(problems).toBe(
      `  Valkey at 127.0.0.1:${node?.port} is a node of a cluster: write redis+cluster:// in VALKEY_URL\n`,
    );
    expect(code).toBe(78);
  });

  test("when redis+cluster:// leads to a Valkey without one", async () => {
    const { problems, code } = await check({
      VALKEY_URL: `redis+cluster://127.0.0.1:${alone.port},127.0.0.1:1`,
      WEBHOOK_SHARDS: "6",
    });
    expect(problems).toBe(`  Valkey at 127.0.0.1:${alone.port} is not a cluster: write redis:// in VALKEY_URL\n`);
    expect(code).toBe(78);
  });
});

describe("with several Valkeys --check", () => {
  test("shows each, and the one that a move into a cluster left behind", async () => {
    const { out, code } = await check({ VALKEY_URL: `${alone.url} ${other.url}`, WEBHOOK_SHARDS: "2" });
    expect(out).toContain(`Valkey at 127.0.0.1:${alone.port}, with shard 0\n`);
    expect(out).toContain(`Valkey at 127.0.0.1:${other.port}, with shard 1\n`);
    expect(code).toBe(0);
    const moved = await check({ VALKEY_URL: cluster.url, WEBHOOK_DRAIN_URL: alone.url });
    expect(moved.out).toContain(`Valkey at 127.0.0.1:${alone.port}, with shard old\n`);
    expect(moved.out).toContain(`  WEBHOOK_DRAIN_URL             ${alone.url}\n`);
    expect(moved.code).toBe(0);
  });

  test("69 when one of them is away, with the others' facts", async () => {
    const { out, problems, code } = await check({
      VALKEY_URL: `${alone.url} redis://127.0.0.1:1`,
      WEBHOOK_SHARDS: "2",
    });
    expect(out).toContain(`Valkey at 127.0.0.1:${alone.port}, with shard 0\n`);
    expect(problems).toBe("  shard 1 of Valkey cannot be used at 127.0.0.1:1: nothing listens there\n");
    expect(code).toBe(69);
  });
});

test("settings of a cluster's nodes are judged together with how many replicas there are", () => {
  const good = {
    "cluster-require-full-coverage": "no",
    "cluster-node-timeout": "5000",
    "min-replicas-to-write": "0",
    appendonly: "yes",
  };
  const about = (settings: object, replicas: number) =>
    judgeClusterSettings({ ...good, ...settings }, replicas).map((note) => note.split(/ is |:/)[0]);
  expect(about({}, 1)).toEqual([]);
  expect(about({ "min-replicas-to-write": "1" }, 2)).toEqual([]);
  expect(about({}, Number.NaN)).toEqual([]);
  expect(about({}, 0)).toEqual(["There"]);
  expect(about({}, 2)).toEqual(["min-replicas-to-write"]);
  expect(about({ "cluster-node-timeout": "15000", appendonly: "no" }, 1)).toEqual([
    "cluster-node-timeout",
    "appendonly",
  ]);
});
