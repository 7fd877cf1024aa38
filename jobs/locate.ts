/**
 * Finds the endpoint of a job that names it by its id, or none, and decides what its state means for the job.
 */
import { ContractError } from "../src/delivery/contract.ts";
import { parseUrl } from "../src/delivery/endpoint-url.ts";
import { endpointKey, type UnaddressedEvent, type UserEvent, type WebhookEvent } from "../src/delivery/request.ts";
import type { GiveUpCause } from "../src/delivery/retry.ts";
import { addressOf } from "../src/endpoints/address.ts";
import type { Backlog } from "../src/isolation/backlog.ts";
import type { Decision } from "../src/isolation/gate.ts";
import { Revisits } from "../src/isolation/pacing.ts";
import { notesOf } from "../src/queue/pick-ups.ts";
import { pin } from "../src/queue/pin.ts";
import { AttemptFailed, type Job, Parked } from "../src/queue/worker.ts";
import type { EndpointDocument, Pause, StoredEndpoint } from "../src/registry/endpoint.ts";
import { UnreadableEndpoints } from "../src/registry/refusals.ts";
import { chooseRecipient, type Recipient, type RecipientOptions } from "./recipients.ts";

/** An event of a registered endpoint. */
export interface RegisteredEvent extends Omit<WebhookEvent, "endpoint"> {
  readonly endpoint: { readonly id: string };
}

/** Keeps the events that registered endpoints did not get. */
export interface Missed {
  /**
   * Keep an event. Idempotent. It resolves once that has been sent on the connection that will carry the acknowledgement.
   *
   * @returns false when the endpoint was to be disabled, and is not any more: nothing is kept
   */
  keep(job: Job, event: RegisteredEvent, cause: GiveUpCause | "disabled"): Promise<boolean>;
}

export interface LocateOptions extends RecipientOptions {
  readonly missed?: Missed | undefined;
  readonly backlog: Pick<Backlog, "leave">;
  /** Keys that open sealed secrets, current first. */
  readonly secretKeys: readonly Uint8Array[];
  readonly rejected: (job: Job, reason: string) => void;
  /** Epoch ms. */
  readonly now?: () => number;
  /** In [0, 1). */
  readonly random?: () => number;
}

/** An event with its endpoint as it is now. */
export interface Located {
  readonly event: WebhookEvent;
  readonly document: EndpointDocument;
  /** When the endpoint was paused, or is. Its events do not age meanwhile. */
  readonly pauses: readonly Pause[];
  /** When the endpoint was switched on again, see {@link StoredEndpoint.began}. */
  readonly began?: number | undefined;
  /** Set while the endpoint is paused. */
  readonly hold?: Extract<Decision, { kind: "park" }> | undefined;
}

const REVISIT_MS = 4 * 1000; // 4 s: an endpoint's events are looked at so often while it is paused
const REVISIT_JITTER = 0.1;
const revisits = new Revisits(2); // ms: 500 jobs a second, as for those that operators hold

/**
 * Find an event's endpoint.
 *
 * @returns the result with which the job is completed, when its endpoint gets no events any more, or when the event goes to
 *          several endpoints or none
 * @throws  AttemptFailed when there is none, or it cannot be read; Parked when it is to be looked up anew; DelayedError when another
 *          worker has the job
 */
export async function locate(
  event: UnaddressedEvent | UserEvent,
  job: Job,
  options: LocateOptions,
): Promise<Located | string> {
  try {
    if (event.endpoint !== undefined) {
      const { id } = event.endpoint;
      const found = await options.findEndpoints?.(event.userId, { id, after: notesOf(job).confirmed });
      return await locateAt(event, found?.endpoints.get(id), job, options);
    }
    const recipient = await chooseRecipient(event, job, options);
    if (typeof recipient === "string") return recipient;
    const { id, found } = recipient;
    pin(job, id);
    return await locateAt({ ...event, endpoint: { id } }, found, job, options);
  } catch (error) {
    if (!(error instanceof ContractError) && !(error instanceof UnreadableEndpoints)) throw error;
    options.rejected(job, error.message);
    throw new AttemptFailed(error.message);
  }
}

function locateAt(
  event: UnaddressedEvent,
  found: Recipient["found"],
  job: Job,
  options: LocateOptions,
): Located | string | Promise<string> {
  const { secretKeys, now = Date.now, random = Math.random } = options;
  const { userId } = event;
  if (found === undefined) {
    throw new ContractError([], `data.endpoint.id: this user has no endpoint ${event.endpoint.id}`);
  }
  if (found === "deleted") return "endpoint deleted";
  const { state, pauses, document, began } = found;
  const nowMs = now();
  if (state.kind === "disabled") return keepWhileDisabled(event, found, job, options);
  const addressed: WebhookEvent = { ...event, endpoint: addressOf(found, userId, secretKeys, nowMs) };
  if (state.kind !== "paused") return { event: addressed, document, pauses, began };
  const returnMs = REVISIT_MS * (1 + REVISIT_JITTER * random()) + revisits.lagMs(nowMs);
  const retryAt = Math.min(Math.ceil(nowMs + returnMs), event.expiresAtMs ?? Number.POSITIVE_INFINITY);
  return {
    event: addressed,
    document,
    pauses: [...pauses, { from: state.since, until: Number.POSITIVE_INFINITY }],
    hold: { kind: "park", reason: "held", retryAt },
  };
}

async function keepWhileDisabled(
  event: UnaddressedEvent,
  found: StoredEndpoint,
  job: Job,
  options: LocateOptions,
): Promise<string> {
  const { missed, now = Date.now } = options;
  if ((await missed?.keep(job, event, "disabled")) === false) throw new Parked(now()); // enabled since: look again
  leaveBacklog(event, found, job, options);
  return "held: endpoint disabled";
}

/** By its URL of now: under another one, it stays listed until that line is full. */
function leaveBacklog(
  { userId, timestampMs }: UnaddressedEvent,
  { document }: StoredEndpoint,
  job: Job,
  { backlog }: LocateOptions,
): void {
  if (job.attemptsStarted === 1) return; // never waited
  const url = parseUrl(document.url);
  if (url === undefined) return; // damaged
  const endpoint = endpointKey(url);
  backlog.leave({ job: job.id as string, endpoint, user: userId, enqueuedAt: timestampMs });
}
