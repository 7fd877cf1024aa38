/**
 * A process that holds jobs, or looks for dead ones: `holder-program.ts hold|look <valkey url> <queue>`. Prints what its tokens
 * begin with, or whether it took locks. `hold` then waits for the end of its stdin.
 */
import { createHolders } from "../../src/queue/holders.ts";
import { queueKey } from "../../src/queue/layout.ts";
import { connectValkey } from "../../src/valkey/connection.ts";

const [what, url = "", queue = ""] = process.argv.slice(2);
const valkey = connectValkey(url, "test:holder", { info() {}, warn() {} });
const holders = createHolders(valkey, queueKey(queue));
const hasTaken = await holders.takeLocksOfDead();
console.log(what === "look" ? hasTaken : holders.prefix);
if (what === "hold") for await (const _ of Bun.stdin.stream());
valkey.disconnect();
