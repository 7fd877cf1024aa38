/**
 * The process in which a worker runs suspects, see suspects.ts. It takes orders over IPC, makes an attempt of each job, and reports what
 * came of it: the worker acknowledges.
 */
import "../valkey/wire.ts";
import { watchHolds } from "../isolation/hold-store.ts";
import { Holds } from "../isolation/holds.ts";
import type { Gate } from "../isolation/port.ts";
import type { AttemptLog } from "../log/attempts.ts";
import { createMetrics } from "../monitoring/metrics.ts";
import { hasHolds, type Shard } from "../queue/shards.ts";
import { AttemptFailed, DelayedError, Parked } from "../queue/worker.ts";
import { createLogger } from "../runtime/logger.ts";
import { loadConfigOrExit } from "../settings/config.ts";
import { connectValkey, type Valkey } from "../valkey/connection.ts";
import type { Homes } from "./homes.ts";
import { createPipeline } from "./pipeline.ts";
import { type Counted, type Order, type Report, reportLife, type Settlement } from "./suspect-child.ts";
import { endWithParent } from "./watchdog.ts";

const HELD_MS = 60 * 1000; // 1 min until a held job is tried again

const holds = new Holds();
/** The worker gives it no more than may go at once, but does not look at whose they are. */
const OPEN: Gate = {
  admit(job) {
    const nowMs = Date.now();
    const until = holds.until(job, nowMs);
    return until > 0 ? { kind: "park", retryAt: Math.min(until, nowMs + HELD_MS), reason: "held" } : { kind: "go" };
  },
  release() {},
  changed() {},
  openCircuits: 0,
  listOpen: () => [],
};

const report = (report: Report): void => void process.send?.(report);
reportLife(report);
endWithParent(Number(process.argv[2]));

const config = loadConfigOrExit(process.env);
const { logger, flush } = createLogger(config.logLevel);
const [first] = config.shards;
const shard = config.shards[Number(process.argv[3])] ?? first;
const connect = ({ url, queue }: Shard, isProbe = false) =>
  connectValkey(url, "fluxhook:suspects", logger, { key: queue, isProbe });
const valkey = connect(shard);
/** To other shards, where jobs are forwarded. */
const probes = new Map<string, Valkey>();
const homes: Homes = {
  shards: config.shards,
  connect({ queue }) {
    const probe = probes.get(queue) ?? connect(config.shards.find((one) => one.queue === queue) ?? first, true);
    probes.set(queue, probe);
    return probe;
  },
};
const written = new Set<Promise<void>>(); // attempts that are being recorded, until what follows from them is done
const log = ({ record }: AttemptLog): Pick<AttemptLog, "record"> => ({
  record(...given) {
    const recorded = record(...given);
    const end = recorded.catch(() => {}).then(() => void written.delete(end));
    written.add(end);
    return recorded;
  },
});
const parts = { metrics: passOn(), gate: OPEN, holds, log };
const {
  workers: [worker],
  sender,
} = createPipeline({ config, logger, shards: [{ ...shard, valkey }], homes, parts });

process.on("message", (order: Order) => {
  if (order.kind === "take") take(order.job, order.token);
  else if (order.kind === "cancel") sender.cancel(shard.label + order.job, order.code);
  else sender.cancelAll(order.code);
});
await valkey.ping();
const quiet = { info() {}, warn() {} }; // the worker logs them
const watches = config.shards.filter(hasHolds).map((place) => {
  const holdsValkey = place === shard ? valkey : connect(place);
  return watchHolds({ ...config, valkey: holdsValkey, queue: place.queue, holds, logger: quiet }).ready;
});
await Promise.all(watches);
report({ kind: "ready" });

async function take(job: string, token: string): Promise<void> {
  const settlement = await worker
    .attempt(job, token)
    .then((phrase): Settlement => ({ kind: "done", phrase }), describe);
  // The acknowledgement comes over another connection, and may be the end of this process.
  await Promise.all(written);
  await valkey.ping();
  await flush();
  report({ kind: "settled", job, settlement });
}

function describe(error: Error): Settlement {
  const { message } = error;
  if (error instanceof AttemptFailed) return { kind: "failed", message, retryInMs: error.retryInMs };
  if (error instanceof Parked) return { kind: "parked", retryAt: error.retryAt };
  return error instanceof DelayedError ? { kind: "left" } : { kind: "unforeseen", message };
}

/** Metrics that the worker counts: nobody asks this process. */
function passOn() {
  const metrics = createMetrics({ inFlight: () => 0, openCircuits: () => 0 });
  const counted = {
    ...{ attempted: true, unlogged: true, backlogFull: true, rejected: true, parked: true, poisoned: true },
    ...{ endpointDisabled: true, endpointWarned: true, missed: true, unwanted: true, fannedOut: true, forwarded: true },
    ...{ noticeAttempted: true },
  } satisfies Record<Counted, true>;
  const counters = (Object.keys(counted) as Counted[]).map((name) => [
    name,
    (...args: unknown[]) => report({ kind: "counted", name, args }),
  ]);
  return { ...metrics, ...Object.fromEntries(counters) };
}
