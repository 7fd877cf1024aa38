/** Replays what an endpoint missed, and stops forever after some scripts, to be killed there: `<url> <queue> <user> <endpoint> <scripts>`. */
import { replayMissed } from "../../src/missed/replay.ts";
import { openValkey } from "../../src/valkey/connection.ts";

const [url = "", queue = "", userId = "", id = "", scripts = "0"] = process.argv.slice(2);
const valkey = openValkey(url, {});
let runs = 0;
await replayMissed({ queue, tag: "", valkey }, userId, id, {}, async (work) => {
  runs += 1;
  if (runs <= Number(scripts)) return await work();
  console.log("halfway");
  return await new Promise(() => {});
});
