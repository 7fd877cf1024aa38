/** The snippets of docs/producers.md for several shards, as they stand there. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Cluster, startCluster } from "../src/dev/cluster.ts";
import { homeOf, shardsOf } from "../src/queue/shards.ts";
import { slotOf } from "../src/valkey/cluster.ts";
import { findSnippet } from "./support/snippets.ts";

const root = join(import.meta.dir, "..");
const PLACE = { heading: "Several shards", marker: "crc32" };
const USERS = ["usr_1", "usr_2", "usr_3", "usr_4", "Zoë", "x".repeat(128)];
let cluster: Cluster;

beforeAll(async () => {
  cluster = await startCluster({ replicas: 0 });
});
afterAll(() => cluster.stop());

test("in Node an event goes to its user's shard, wherever that is in the cluster", async () => {
  const code = findSnippet("docs/producers.md", "js", PLACE);
  const [node] = cluster.nodes;
  const file = join(root, `.snippet-${crypto.randomUUID()}.mjs`); // here, so that it finds its imports
  const calls = USERS.map((userId) => `await enqueue("file.created", { userId: ${JSON.stringify(userId)} });`).join(
    "\n",
  );
  writeFileSync(
    file,
    `${code.replace('"valkey-1", port: 6379', `"127.0.0.1", port: ${node?.port}`)}\n${calls}\nclose();\n`,
  );
  const run = Bun.spawn(["node", file], { cwd: root, stdio: ["ignore", "ignore", "pipe"] });
  const errors = await new Response(run.stderr).text();
  rmSync(file);
  expect([await run.exited, errors]).toEqual([0, ""]);
  const shards = shardsOf({ queue: "webhooks", shards: 6, valkeyUrls: [cluster.url] });
  for (const { queue, index } of shards) {
    const owner = await cluster.ownerOf(slotOf(queue));
    const expected = USERS.filter((user) => homeOf(user, 6) === index).length;
    expect([index, await owner?.client.llen(`bull:${queue}:wait`)]).toEqual([index, expected]);
  }
});

test.skipIf(Bun.which("python3") === null)("in Python a user's queue is that of the user's shard", async () => {
  const code = findSnippet("docs/producers.md", "python", PLACE);
  const program = `${code}\nimport json, sys\nprint(json.dumps([queue_of(user) for user in json.loads(sys.argv[1])]))`;
  const run = Bun.spawn(["python3", "-c", program, JSON.stringify(USERS)], { stdio: ["ignore", "pipe", "inherit"] });
  const valkeyUrls = ["redis://a:6379", "redis://b:6379"];
  const shards = shardsOf({ queue: "webhooks", shards: 2, valkeyUrls });
  expect(await new Response(run.stdout).json()).toEqual(
    USERS.map((user) => {
      const home = shards[homeOf(user, 2)];
      return [home?.queue, home?.url];
    }),
  );
});
