/**
 * A backend that does everything wrong: writes one JSON object, what came of each mistake, and what reached the process. Runs on
 * Bun as it is, and on Node as a bundle.
 *
 *     VALKEY_URL    a Valkey whose default user has the password of the URL; a user `limited`, password `s3cret`, may nothing
 *     SILENT_PORT   accepts connections, and says nothing
 */
import { Redis } from "ioredis";
import { createFluxhook, type Fluxhook, type FluxhookOptions, type NewEvent } from "../../src/index.ts";

const reached: string[] = [];
for (const name of ["unhandledRejection", "uncaughtException", "warning"]) {
  process.on(name, (reason: unknown) => reached.push(`${name}: ${reason}`));
}

const url = process.env.VALKEY_URL as string;
const place = new URL(url).host;
const queue = "misuse";
const event: NewEvent = {
  event: "file.created",
  userId: "usr_1",
  endpoint: { url: "http://127.0.0.1:1/", secret: "hush" },
  data: {},
};
const results: Record<string, string> = {};

/** What a mistake came to: the error's code, and how long that took when it was not at once. */
async function note(what: string, mistake: () => unknown): Promise<void> {
  const since = performance.now();
  const told = await Promise.resolve()
    .then(mistake)
    .then(
      () => "fine",
      (error: Error & { code?: string }) => `${error.code ?? error.stack}: ${error.message}`,
    );
  results[what] = `${told}${performance.now() - since > 1500 ? " (late)" : ""}`;
}

const wrongOptions: Record<string, unknown> = {
  text: url,
  null: null,
  list: [],
  "{url}": { url },
  "{VALKEY_URL}": { VALKEY_URL: url },
  "{timeout}": { timeout: 5 },
  "no URL": { valkeyUrl: 7 },
  "URL of http": { valkeyUrl: "http://x" },
  "queue a b": { queue: "a b" },
  "queue a:b": { queue: "a:b" },
  "queue 7": { queue: 7 },
  "timeoutMs as text": { timeoutMs: "5" },
  "timeoutMs 0": { timeoutMs: 0 },
  "maxBodyBytes -1": { maxBodyBytes: -1 },
  "short sealingKey": { sealingKey: "short" },
  "sealingKey 7": { sealingKey: 7 },
};
for (const [what, options] of Object.entries(wrongOptions)) {
  await note(`createFluxhook: ${what}`, () => createFluxhook(options as FluxhookOptions));
}

const fluxhook = createFluxhook({ valkeyUrl: url, queue });
const wild = fluxhook as unknown as Record<
  "enqueue" | "enqueueMany" | "readAttempts",
  (...given: unknown[]) => unknown
>;
const circle: Record<string, unknown> = {};
circle.circle = circle;
const wrongEvents: Record<string, unknown[]> = {
  nothing: [],
  null: [null],
  text: ["file.created"],
  list: [[event]],
  "an empty object": [{}],
  "unknown fields": [{ ...event, user: "usr_1", endpoint: { ...event.endpoint, uri: "x" } }],
  "a job": [{ name: "file.created", data: event }],
  "a circle": [{ ...event, data: circle }],
  "a BigInt": [{ ...event, data: { id: 1n } }],
  "a getter that throws": [
    {
      ...event,
      get data() {
        throw new Error("mine");
      },
    },
  ],
  "what becomes nothing": [{ toJSON: () => null }],
  "an id that is none": [{ ...event, id: 7 }],
  "{delay}": [event, { delay: 5 }],
  "{signal}": [event, { signal: AbortSignal.abort() }],
  "options null": [event, null],
  "options 5": [event, 5],
  "delayMs as text": [event, { delayMs: "5" }],
  "delayMs 1e300": [event, { delayMs: 1e300 }],
  "attempts 0": [event, { attempts: 0 }],
  "backoff null": [event, { backoff: null }],
  "backoff of no type": [event, { backoff: { delay: 5 } }],
  "backoff without delay": [event, { backoff: { type: "fixed" } }],
  "jitter 7": [event, { backoff: { type: "fixed", delay: 5, jitter: 7 } }],
  "jitter beside": [event, { jitter: 7 }],
};
for (const [what, given] of Object.entries(wrongEvents)) await note(`enqueue: ${what}`, () => wild.enqueue(...given));
const wrongLists: Record<string, unknown[]> = {
  nothing: [],
  "one event": [event],
  "a hole": [new Array(1)],
  "one that is broken": [[event, { ...event, userId: "" }]],
  "{delay}": [[event], { delay: 5 }],
};
for (const [what, given] of Object.entries(wrongLists))
  await note(`enqueueMany: ${what}`, () => wild.enqueueMany(...given));
await note("readAttempts: nothing", () => wild.readAttempts());

/** Every call of a connection that cannot be used, the first alone and then two at once; and then `close`, twice. */
async function cannot(what: string, valkeyUrl: string): Promise<void> {
  const broken = createFluxhook({ valkeyUrl, queue, timeoutMs: 1000 });
  await note(`${what}: enqueue`, () => broken.enqueue(event));
  await Promise.all([
    note(`${what}: enqueueMany`, () => broken.enqueueMany([event, event])),
    note(`${what}: readAttempts`, () => broken.readAttempts("usr_1")),
  ]);
  await note(`${what}: close`, () => broken.close());
  await note(`${what}: close again`, () => broken.close());
}
await Promise.all([
  cannot("away", "redis://127.0.0.1:1"),
  cannot("silent", `redis://127.0.0.1:${process.env.SILENT_PORT}`),
  cannot("no such host", "redis://nowhere.invalid:6379"),
]);
await cannot("wrong password", `redis://:wrong@${place}`);
await cannot("no password", `redis://${place}`);
await cannot("no rights", `redis://limited:s3cret@${place}`);
await cannot("no rights to its database", `redis://limited:s3cret@${place}/1`);
await cannot("no database", `${url}/99`);

await note("closed at once", () => createFluxhook({ valkeyUrl: url }).close());
await note("disposed of", () => createFluxhook({ valkeyUrl: url })[Symbol.asyncDispose]());

/** Codes of calls, each once, in order. */
const codesOf = async (calls: Promise<unknown>[]) => {
  const settled = await Promise.allSettled(calls);
  return [
    ...new Set(settled.map((call) => (call.status === "fulfilled" ? "fine" : (call.reason.code ?? call.reason.stack)))),
  ].join();
};
const many = (to: Fluxhook) => Array.from({ length: 20 }, () => to.enqueue(event));
const closing = createFluxhook({ valkeyUrl: url, queue });
const before = many(closing);
const end = [closing.close(), closing.close()];
results["enqueue while closing"] = await codesOf([...before, ...end]);
results["enqueue after close"] = await codesOf(many(closing));
await note("readAttempts after close", () => closing.readAttempts("usr_1"));

const killer = new Redis(url);
const cut = createFluxhook({ valkeyUrl: url, queue, timeoutMs: 60_000 });
const cutCalls = many(cut);
for (let i = 0; i < 20; i++) {
  await killer.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
  cutCalls.push(...many(cut));
  await new Promise((resolve) => setTimeout(resolve, 5));
}
results["enqueue while the connection is cut again and again"] = await codesOf(cutCalls);
const closedWhileCut = cut.close();
await killer.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
await closedWhileCut;
killer.disconnect();

await fluxhook.close();
await new Promise((resolve) => setTimeout(resolve, 300)); // for what comes late
console.log(JSON.stringify({ results, reached }));
