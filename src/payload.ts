/**
 * Event in, exact request out. Pure: the same event gives the same body on every attempt, byte for byte.
 */
import { signFluxdrop, signStandard } from "./signature.ts";

/** An event that kept the contract: what the backend enqueued, ready to deliver. */
export interface WebhookEvent {
  /** UUID; what a receiver deduplicates by. The same on every attempt. */
  readonly id: string;
  /** The event type, e.g. `file.created`. */
  readonly type: string;
  /** When the backend enqueued it, epoch ms. */
  readonly timestampMs: number;
  /** Whose log the attempts go to. */
  readonly userId: string;
  readonly endpoint: {
    /** Parsed, http or https, without userinfo. */
    readonly url: URL;
    /** At least one, current first. */
    readonly secrets: readonly [string, ...string[]];
  };
  /** What is sent, see {@link buildBody}. */
  readonly body: Buffer;
}

/** One POST, complete but for the connection. */
export interface WebhookRequest {
  readonly url: URL;
  /** Name, value, name, value, …: in the order and case in which they are sent. */
  readonly headers: readonly string[];
  readonly body: Buffer;
}

const USER_AGENT = "Fluxhook/1.0";

/**
 * The body of an event: `{"id","event","timestamp","data"}` in that order, compact JSON, UTF-8. `timestamp` is ISO 8601
 * with milliseconds.
 *
 * @param timestampMs  epoch ms
 * @param data         the event's own data, any JSON object
 * @throws  RangeError when `data` is nested too deeply to be written
 */
export function buildBody(id: string, event: string, timestampMs: number, data: object): Buffer {
  return Buffer.from(JSON.stringify({ id, event, timestamp: new Date(timestampMs).toISOString(), data }));
}

/**
 * Build the POST of one attempt.
 *
 * Only the delivery id, the timestamp and the Standard Webhooks signature (which covers it) differ between attempts.
 *
 * @param delivery  UUID of this attempt, new for each
 * @param nowMs     epoch ms of this attempt
 */
export function buildRequest(event: WebhookEvent, delivery: string, nowMs: number): WebhookRequest {
  const { body } = event;
  const { url, secrets } = event.endpoint;
  const timestamp = Math.floor(nowMs / 1000);
  const headers = [
    "Host",
    url.host,
    "User-Agent",
    USER_AGENT,
    "Content-Type",
    "application/json",
    "Content-Length",
    String(body.length),
    // We read no body worth compressing, and a compressed one could be a bomb.
    "Accept-Encoding",
    "identity",
    "X-Fluxdrop-Event",
    event.type,
    "X-Fluxdrop-Delivery",
    delivery,
    "X-Fluxdrop-Timestamp",
    String(timestamp),
    "X-Fluxdrop-Signature",
    signFluxdrop(body, secrets[0]),
    "webhook-id",
    event.id,
    "webhook-timestamp",
    String(timestamp),
    "webhook-signature",
    signStandard(event.id, timestamp, body, secrets),
  ];
  return { url, headers, body };
}

/** An endpoint as logs, metrics and the gate name it: without query and fragment, which may carry tokens. */
export function endpointName(url: URL): string {
  return url.origin + url.pathname;
}
