/** Writes to every shard of the cluster whose URL is given, and says on how many nodes they are, or why it cannot. */
import { shardsOf } from "../../src/queue/shards.ts";
import { reachValkey } from "../../src/valkey/reach.ts";

const [, , url = ""] = process.argv;
const ports = new Set<string>();
for (const { queue } of shardsOf({ queue: "webhooks", shards: 12, valkeyUrls: [url] })) {
  const reached = await reachValkey(url, "test:cluster", queue);
  if (!reached.ok) {
    console.log(reached.reason);
    process.exit();
  }
  await reached.valkey.set(`bull:${queue}:probe`, "1");
  ports.add(((await reached.valkey.config("GET", "tls-port")) as [string, string])[1]);
  reached.valkey.disconnect();
}
console.log(`OK ${ports.size} nodes`);
