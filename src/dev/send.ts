/**
 * Enqueue one sample event with a plain BullMQ client, as a backend would.
 *
 *     npm run send -- file.created https://example.com/webhooks
 */
import { Queue } from "bullmq";
import { EVENT_TYPES, type EventType } from "../delivery/contract.ts";
import { homeAmong } from "../queue/shards.ts";
import { within } from "../runtime/deadline.ts";
import { loadConfigOrExit } from "../settings/config.ts";
import { reachValkey } from "../valkey/reach.ts";
import { placeOf } from "../valkey/url.ts";
import { buildSample, DEMO_ENDPOINT, DEMO_USER } from "./samples.ts";

const ANSWER_MS = 5 * 1000; // 5 s: someone is waiting at a terminal

const [type = "file.created", url = DEMO_ENDPOINT, ...rest] = process.argv.slice(2);
if (!isEventType(type) || !URL.canParse(url) || rest.length > 0) {
  console.error(`usage: npm run send -- [EVENT] [URL]

Enqueues one sample event, file.created by default, for the endpoint at URL, the receiver of npm start by default. Uses
WEBHOOK_QUEUE at VALKEY_URL.
EVENT is one of ${EVENT_TYPES.join(", ")}.`);
  process.exit(2);
}

const config = loadConfigOrExit(process.env);
const shard = homeAmong(config.shards, DEMO_USER);
const place = placeOf(shard.url);
const reached = await reachValkey(shard.url, "fluxhook:sample", shard.queue);
if (!reached.ok) {
  console.error(reached.isWrongSetting ? reached.reason : `Cannot use Valkey at ${place}: ${reached.reason}.`);
  process.exit(1);
}
const queue = new Queue(shard.queue, { connection: reached.valkey });
queue.on("error", () => {}); // the failing call reports it
const job = await within(ANSWER_MS, queue.add(type, buildSample(type, url)), undefined);
if (job === undefined) {
  console.error(`Valkey at ${place} did not accept the event. Set VALKEY_URL to the one that the worker uses.`);
  process.exit(1);
}
console.log(`Enqueued ${type} on "${shard.queue}" as job ${shard.label}${job.id}.`);
await queue.close();
reached.valkey.disconnect();

function isEventType(text: string): text is EventType {
  return (EVENT_TYPES as readonly string[]).includes(text);
}
