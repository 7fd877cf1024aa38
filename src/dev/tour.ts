/**
 * The tour: one event of each type on its way through the system, and what its user's log says afterwards.
 */
import type { Queue } from "bullmq";
import { EVENT_TYPES, type EventType } from "../delivery/contract.ts";
import { type Verification, verify } from "../delivery/signature.ts";
import type { Attempt } from "../log/attempts.ts";
import type { LogLine } from "./processes.ts";
import type { Receiver } from "./receiver.ts";
import type { AttemptRow } from "./report.ts";
import { buildSample, DEMO_SECRET } from "./samples.ts";

/** The event whose first attempt the receiver turns down, to show a retry. */
export const RETRIED: EventType = "share.linked";

const LOG_TRIES = 40;
const LOG_PAUSE_MS = 50; // 40 times: 2 s

export interface Tour {
  /** To be called with each line of the worker's log. Shows an attempt as a row. */
  onWorkerLine(line: LogLine): void;
  /**
   * True when each event was delivered by a request whose signature was right; false as soon as those that are left
   * cannot be any more, in time.
   */
  readonly settled: Promise<boolean>;
  /** What is not delivered or not verified yet, a line each, with the last that is known about it. */
  missing(): string[];
  /** The UUID of the attempt that ended last; undefined before the first. */
  lastDelivery(): string | undefined;
}

/**
 * Make the receiver check signatures, and turn down the first attempt of {@link RETRIED}.
 *
 * @param patienceMs  a retry that is further away than this is too late
 */
export function createTour(receiver: Receiver, patienceMs: number, show: (row: AttemptRow) => void): Tour {
  const verifications = new Map<string, Verification>(); // by the UUID of the attempt
  const missing = new Map<string, State>(EVENT_TYPES.map((type) => [type, { text: "no attempt yet", isFinal: false }]));
  const settled = Promise.withResolvers<boolean>();
  let isTurnedDown = false;
  let lastDelivery: string | undefined;

  receiver.answer(({ body, headers }) => {
    const verification = verify(body, headers, DEMO_SECRET);
    verifications.set(headers["x-fluxdrop-delivery"] ?? "", verification);
    if (!verification.ok) return { status: 401, body: verification.reason };
    if (headers["x-fluxdrop-event"] !== RETRIED || isTurnedDown) return { status: 200 };
    isTurnedDown = true;
    return { status: 503 };
  });

  return {
    settled: settled.promise,
    missing: () => [...missing].map(([type, { text }]) => `${type}: ${text}`),
    lastDelivery: () => lastDelivery,
    onWorkerLine(line) {
      if (line.message !== "delivery.attempted") return;
      const attempt = line as unknown as Omit<AttemptRow, "isVerified"> & { delivery: string };
      const verification = verifications.get(attempt.delivery);
      const row = { ...attempt, isVerified: verification?.ok };
      lastDelivery = attempt.delivery;
      show(row);
      if (row.success && row.isVerified) missing.delete(row.event);
      else if (missing.has(row.event)) missing.set(row.event, describe(row, verification, patienceMs));
      if ([...missing.values()].every(({ isFinal }) => isFinal)) settled.resolve(missing.size === 0);
    },
  };
}

/** What is known about an event that is missing. */
interface State {
  readonly text: string;
  /** It will not be delivered in time. */
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
 * Enqueue one event of each type as a backend does: a plain BullMQ client, a name and data, no options.
 *
 * One after the other, so that they are delivered in the order of the list.
 */
export async function enqueueSamples(queue: Queue, url: string): Promise<void> {
  for (const type of EVENT_TYPES) await queue.add(type, buildSample(type, url));
}

/**
 * Read a user's log through the board's API.
 *
 * @param delivery  UUID of an attempt that must be in it; it is written right after the line that tells of it
 * @throws  when the board does not answer with a log, or the attempt is not there within 2 s
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
