import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { Queue } from "bullmq";
import { verify } from "../src/delivery/signature.ts";
import { type Receiver, startReceiver } from "../src/dev/receiver.ts";
import { startWorkerProcess, type WorkerProcess } from "./support/process.ts";
import { jobData } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const root = join(import.meta.dir, "..");
const SECRET = "s3cret-of-the-test"; // jobData's
const UNSET = 0;
const ERROR = 2;

let valkeyUrl: string;
let collector: Receiver;
let customer: Receiver;
const open: { stop(): unknown }[] = [];

beforeAll(async () => {
  valkeyUrl = await testValkeyUrl();
});

afterEach(async () => {
  await Promise.all(open.splice(0).map((one) => one.stop()));
});

afterAll(async () => {
  await Promise.all([collector?.stop(), customer?.stop()]);
});

/** A worker, its queue, a fresh collector and a fresh customer. */
async function start(env: Record<string, string>) {
  collector = await startReceiver();
  customer = await startReceiver();
  const name = `tracing-${crypto.randomUUID()}`;
  const worker = startWorkerProcess({
    VALKEY_URL: valkeyUrl,
    WEBHOOK_QUEUE: name,
    WEBHOOK_RETRY_DELAYS: "20ms",
    OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${collector.port}`,
    ...env,
  });
  const queue = new Queue(name, { connection: { url: valkeyUrl } });
  open.push(collector, customer, worker, { stop: () => queue.close() });
  await worker.line("worker.ready");
  return { worker, queue, name };
}

interface Span {
  readonly service: string;
  readonly name: string;
  readonly kind: number;
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId?: string;
  readonly status: { readonly code: number };
  readonly attributes: Readonly<Record<string, unknown>>;
}

type Pairs = readonly { key: string; value: { stringValue?: string; intValue?: number; arrayValue?: unknown } }[];
const valuesOf = (pairs: Pairs) =>
  Object.fromEntries(pairs.map(({ key, value }) => [key, value.stringValue ?? value.intValue ?? value.arrayValue]));

/** What the collector got: OTLP over HTTP, as JSON. */
function spansReceived(): Span[] {
  return collector.requests.flatMap(({ path, json }) => {
    expect(path).toBe("/v1/traces");
    const { resourceSpans } = json as {
      resourceSpans: { resource: { attributes: Pairs }; scopeSpans: { spans: (Span & { attributes: Pairs })[] }[] }[];
    };
    return resourceSpans.flatMap(({ resource, scopeSpans }) =>
      scopeSpans.flatMap(({ spans }) =>
        spans.map((span) => ({
          ...span,
          service: valuesOf(resource.attributes)["service.name"] as string,
          attributes: valuesOf(span.attributes),
        })),
      ),
    );
  });
}

/** The spans of a worker, which sends the last of them when it stops. */
async function spansOf(worker: WorkerProcess): Promise<Span[]> {
  expect(await worker.stop()).toBe(0);
  return spansReceived();
}

const named = (spans: readonly Span[], name: string) => spans.filter((span) => span.name.startsWith(name));
const context = (traceId: string, flags: string) =>
  JSON.stringify({ traceparent: `00-${traceId}-b7ad6b7169203331-${flags}`, tracestate: "dd=s:1;t.usr.id:usr_42" });

test("a trace goes from the backend's span over the worker's to each POST and its header", async () => {
  const { worker, name } = await start({ WEBHOOK_TRACING: "1" });
  customer.answer((_, index) => ({ status: index === 0 ? 503 : 200 }));
  const data = jobData(customer.url("/hook?token=t0ken"));
  const backend = Bun.spawn(
    [process.execPath, join(root, "test/support/tracing-backend.ts"), name, JSON.stringify(data)],
    {
      env: { PATH: process.env.PATH, VALKEY_URL: valkeyUrl, OTEL_EXPORTER_OTLP_ENDPOINT: collector.url("") },
      stdio: ["ignore", "inherit", "inherit"],
    },
  );
  expect(await backend.exited).toBe(0);
  await worker.line("delivery.attempted", 2);
  const spans = await spansOf(worker);

  const [upload, ...noUpload] = named(spans, "upload");
  const [add, ...noAdd] = named(spans, "add ");
  const attempts = named(spans, "process ");
  const posts = named(spans, "POST");
  expect([noUpload.length, noAdd.length, attempts.length, posts.length]).toEqual([0, 0, 2, 2]);
  const traces = spans.filter(({ service }) => service === "fluxhook").map(({ traceId }) => traceId);
  expect(new Set([add?.traceId, ...traces])).toEqual(new Set([upload?.traceId as string]));
  expect(add?.parentSpanId).toBe(upload?.spanId as string);
  expect(attempts.map(({ parentSpanId }) => parentSpanId)).toEqual([add?.spanId, add?.spanId]);
  expect(posts.map(({ parentSpanId }) => parentSpanId)).toEqual(attempts.map(({ spanId }) => spanId));
  expect([upload?.service, add?.service, attempts[0]?.service, posts[0]?.service]).toEqual([
    "backend",
    "backend",
    "fluxhook",
    "fluxhook",
  ]);

  const status = posts.map(({ status: { code }, attributes }) => [
    code,
    attributes["http.response.status_code"],
    attributes["error.type"],
  ]);
  expect(status).toEqual([
    [ERROR, 503, "http_503"],
    [UNSET, 200, undefined],
  ]);
  expect(posts[0]?.attributes).toMatchObject({
    "http.request.method": "POST",
    "url.full": customer.url("/hook"),
    "server.address": "127.0.0.1",
    "server.port": customer.port,
  });

  expect(customer.requests.map(({ headers }) => headers.traceparent)).toEqual(
    posts.map(({ traceId, spanId }) => `00-${traceId}-${spanId}-01`),
  );
  for (const { headers, body } of customer.requests) expect(verify(body, headers, SECRET).ok).toBe(true);
  const exported = collector.requests.map(({ body }) => body.toString()).join();
  for (const secret of [SECRET, "t0ken"]) expect(exported).not.toContain(secret);
});

test("a delivery whose backend does not trace is a trace of its own, and so is one with a context nobody can read", async () => {
  const { worker, queue } = await start({ WEBHOOK_TRACING: "1", WEBHOOK_CONCURRENCY: "1" });
  const contexts: unknown[] = [undefined, undefined, "{", "null", "7", 7, {}, '{"traceparent":7}', "00-xyz"];
  for (const metadata of contexts) {
    const options = metadata === undefined ? {} : { telemetry: { metadata: metadata as string } };
    await queue.add("file.created", jobData(customer.url()), options);
  }
  await worker.line("delivery.attempted", contexts.length);
  const spans = await spansOf(worker);
  expect(new Set(named(spans, "POST").map(({ traceId }) => traceId)).size).toBe(contexts.length);
  // Polling and other housekeeping would be traces without a delivery.
  const roots = spans.filter(({ parentSpanId }) => !parentSpanId);
  expect(new Set(roots.map((span) => span.name))).toEqual(new Set([`process ${queue.name}`]));
});

test("a share is traced of what the backend does not decide, and its decision holds either way", async () => {
  const { worker, queue } = await start({ WEBHOOK_TRACING: "0.000000001", OTEL_SERVICE_NAME: "webhooks-eu" });
  const [no, yes] = ["a".repeat(32), "b".repeat(32)] as [string, string];
  for (const telemetry of [{}, { metadata: context(no, "00") }, { metadata: context(yes, "01") }]) {
    await queue.add("file.created", jobData(customer.url()), { telemetry });
  }
  await worker.line("delivery.attempted", 3);
  const spans = await spansOf(worker);
  expect(new Set(spans.map(({ traceId, service }) => `${service} ${traceId}`))).toEqual(
    new Set([`webhooks-eu ${yes}`]),
  );
  const flags = customer.requests.map(({ headers }) => headers.traceparent?.slice(-2)).sort();
  expect(flags).toEqual(["00", "00", "01"]);
  expect(customer.requests.flatMap(({ headers }) => Object.keys(headers))).not.toContain("tracestate"); // the backend's own
});

test.each([
  ["refuses spans", { status: 400 }],
  ["does not answer", "hang" as const],
  ["closes connections", "close" as const],
])(
  "a collector that %s disturbs no delivery and no shutdown",
  async (_, answer) => {
    const { worker, queue } = await start({ WEBHOOK_TRACING: "1" });
    collector.answer(answer);
    // Three spans each, and 512 are a batch, which is sent at once.
    const jobs = Array.from({ length: 200 }, (_, i) => ({
      name: "file.created",
      data: jobData(customer.url(`/${i}`)),
    }));
    await queue.addBulk(jobs);
    await customer.waitFor(jobs.length);
    await collector.next();
    expect(await worker.stop()).toBe(0);
    const attempts = worker.lines.filter(({ message }) => message === "delivery.attempted");
    expect(attempts.map(({ success }) => success)).toEqual(jobs.map(() => true));
    const losses = worker.lines.filter(({ message }) => message === "spans.lost").length;
    expect(losses).toBeGreaterThan(0);
    expect(losses).toBeLessThan(3); // when it begins, and at the end
  },
  20_000,
);

test("off, no part of it is loaded and no header is sent", async () => {
  const { worker, queue } = await start({ BUN_OPTIONS: `--preload ${join(root, "test/support/loaded-modules.ts")}` });
  await queue.add("file.created", jobData(customer.url()), { telemetry: { metadata: context("c".repeat(32), "01") } });
  await worker.line("delivery.attempted");
  expect(await worker.stop()).toBe(0);
  const loaded = JSON.parse(/^loaded (.*)$/m.exec(worker.errors())?.[1] as string) as string[];
  expect(loaded).toContain("bullmq");
  // prom-client loads the API, which is a few empty functions until a program hands it an SDK.
  expect(loaded.filter((name) => /opentelemetry|otel/.test(name))).toEqual(["@opentelemetry/api"]);
  expect(Object.keys(customer.requests[0]?.headers ?? {})).not.toContain("traceparent");
  expect(collector.connections).toBe(0);
});
