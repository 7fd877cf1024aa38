/**
 * The demo: delivers one event of each type, then reads the user's log.
 */
import { EVENT_TYPES, type EventType } from "../delivery/contract.ts";
import { type Verification, verify } from "../delivery/signature.ts";
import type { Attempt } from "../log/attempts.ts";
import type { DemoQueue } from "./environment.ts";
import type { LogLine } from "./processes.ts";
import type { Receiver } from "./receiver.ts";
import type { AttemptRow } from "./report.ts";
import { buildSample, DEMO_SECRET, DEMO_USER } from "./samples.ts";

/** The event whose first attempt the receiver rejects, to show a retry. */
export const RETRIED: EventType = "share.linked";

const LOG_TRIES = 40;
const LOG_PAUSE_MS = 50; // 40 times: 2 s

export interface Tour {
  /** Call with each line of the worker's log. Prints attempts as rows. */
  onWorkerLine(line: LogLine): void;
  /**
   * True once every event was delivered with a verified signature; false as soon as the rest can no longer be delivered in
   * time.
   */
  readonly settled: Promise<boolean>;
  /** Events not delivered and verified yet, one line each with their latest result. */
  missing(): string[];
  /** The UUID of the latest attempt for {@link DEMO_USER}; undefined before the first. */
  lastDelivery(): string | undefined;
}

/**
 * Make the receiver verify signatures, and reject the first attempt of {@link RETRIED}.
 *
 * @param patienceMs  a retry later than this is too late
 */
export function createTour(receiver: Receiver, patienceMs: number, show: (row: AttemptRow) => void): Tour {
  const verifications = new Map<string, Verification>(); // by the UUID of the attempt
  const missing = new Map<string, State>(EVENT_TYPES.map((type) => [type, { text: "no attempt yet", isFinal: false }]));
  const settled = Promise.withResolvers<boolean>();
  let hasRejected = false;
  let lastDelivery: string | undefined;

  receiver.answer(({ body, headers }) => {
    const verification = verify(body, headers, DEMO_SECRET);
    verifications.set(headers["x-fluxdrop-delivery"] ?? "", verification);
    if (!verification.ok) return { status: 401, body: verification.reason };
    if (headers["x-fluxdrop-event"] !== RETRIED || hasRejected) return { status: 200 };
    hasRejected = true;
    return { status: 503 };
  });

  return {
    settled: settled.promise,
    missing: () => [...missing].map(([type, { text }]) => `${type}: ${text}`),
    lastDelivery: () => lastDelivery,
    onWorkerLine(line) {
      if (line.message !== "delivery.attempted") return;
      const attempt = line as unknown as Omit<AttemptRow, "isVerified"> & { delivery: string; user: string };
      const verification = verifications.get(attempt.delivery);
      const row = { ...attempt, isVerified: verification?.ok };
      if (attempt.user === DEMO_USER) lastDelivery = attempt.delivery;
      show(row);
      if (row.success && row.isVerified) missing.delete(row.event);
      else if (missing.has(row.event)) missing.set(row.event, describe(row, verification, patienceMs));
      if ([...missing.values()].every(({ isFinal }) => isFinal)) settled.resolve(missing.size === 0);
    },
  };
}

/** The latest result of an event that is not delivered yet. */
interface State {
  readonly text: string;
  /** It can no longer be delivered in time. */
  readonly isFinal: boolean;
}

function describe(row: AttemptRow, verification: Verification | undefined, patienceMs: number): State {
  const { attempt, status_code, error, verdict, retry_in_ms } = row;
  const result = status_code === null ? error : `HTTP ${status_code}`;
  const signature = verification?.ok === false ? `, signature refused (${verification.reason})` : "";
  const next = retry_in_ms === undefined ? verdict : `next in ${Math.round(retry_in_ms / 1000)} s`;
  return {
    text: `attempt ${attempt} ended with ${result}${signature}, ${next}`,
    isFinal: retry_in_ms === undefined || retry_in_ms > patienceMs,
  };
}

/**
 * Enqueue one event of each type with a plain BullMQ client: a name and data, no options.
 *
 * Sequential, so that they are delivered in order.
 *
 * @param users  whose they are, in turn
 */
export async function enqueueSamples(queue: DemoQueue, url: string, users: readonly string[]): Promise<void> {
  for (const [index, type] of EVENT_TYPES.entries()) {
    await queue.add(type, buildSample(type, url, users[index % users.length]));
  }
}

/**
 * Read a user's log through the board's API.
 *
 * @param delivery  UUID of an attempt that must be in it; it is stored shortly after its log line
 * @throws  when the board does not return a log, or the attempt is not in it within 2 s
 */
export async function readLog(
  url: string,
  headers: Record<string, string>,
  delivery: string | undefined,
): Promise<Attempt[]> {
  for (let tries = 1; ; tries++) {
    const response = await fetch(url, { headers });
    if (!response.ok) throw new Error(`${url} answered ${response.status}: ${await response.text()}`);
    const { attempts } = (await response.json()) as { attempts: Attempt[] };
    if (delivery === undefined || attempts.some((attempt) => attempt.delivery === delivery)) return attempts;
    if (tries === LOG_TRIES) throw new Error(`${url} does not show the attempt ${delivery}`);
    await Bun.sleep(LOG_PAUSE_MS);
  }
}
