/**
 * Builds the request for an event. Pure: the body is the same on every attempt, byte for byte.
 */
import { createHash } from "node:crypto";
import { originOf } from "./forwarded-id.ts";
import { signFluxdrop, signStandard } from "./signature.ts";

/** A valid event that the backend enqueued, ready to deliver. */
export interface WebhookEvent {
  /** UUID, the same on every attempt. Receivers deduplicate by it. */
  readonly id: string;
  /** The event type, e.g. `file.created`. */
  readonly type: string;
  /** When the backend enqueued it, epoch ms. */
  readonly timestampMs: number;
  /** No attempt begins at this time or later, epoch ms; undefined when it does not expire. */
  readonly expiresAtMs?: number | undefined;
  /** Whose log the attempts go to. */
  readonly userId: string;
  readonly endpoint: {
    /** Parsed, http or https, without userinfo. */
    readonly url: URL;
    /** At least one, current first. */
    readonly secrets: readonly [string, ...string[]];
    /** Under which it is registered; absent when the job names it in full. */
    readonly id?: string;
    /** Header lines of the endpoint's own, each with its CRLF. Never logged or shown. */
    readonly headers?: string;
  };
  /** See {@link buildBody}. */
  readonly body: Buffer;
}

/** An event whose endpoint still has to be looked up by its id. */
export type UnaddressedEvent = Omit<WebhookEvent, "endpoint"> & { readonly endpoint: { readonly id: string } };

/** An event that names no endpoint: it goes to all of its user's that want it. */
export type UserEvent = Omit<WebhookEvent, "endpoint"> & { readonly endpoint?: undefined };

/** A POST, complete except for the request line and the connection. */
export interface WebhookRequest {
  readonly url: URL;
  /** The header lines, each with its CRLF, exactly as sent. */
  readonly head: string;
  readonly body: Buffer;
}

const NAMESPACE = "5b6cf1d6-0c8e-4a53-9d0f-6a1f3c1f7a52"; // Fluxhook's own, for ids derived from jobs (UUID v5)

/** Takes the place of a job's data that was not parsed because its JSON is too long. Lengths in characters. */
export class UnreadData {
  constructor(
    readonly length: number,
    readonly maxLength: number,
  ) {}
}

const USER_AGENT = "Fluxhook/1.0";
const FORBIDDEN = /[^\t\x20-\x7e\x80-\xff]/; // in a header value; a line break would inject another header

/**
 * The id of a job's event: the one given by its producer, or else one derived from queue, job id and job timestamp. So it is the
 * same on every attempt, manual retries included, without being stored.
 */
export function eventIdOf(
  job: { readonly queueName: string; readonly id?: string | undefined; readonly timestamp: number },
  given: string | undefined,
): string {
  return given ?? nameUuid(`${namedAtFirst(job.queueName, job.id)}:${job.timestamp}`);
}

/** Queue and id of a job, as they were before it was forwarded. */
function namedAtFirst(queue: string, id: string | undefined): string {
  const origin = id === undefined ? undefined : originOf(id);
  return origin === undefined ? `${queue}:${id}` : namedAtFirst(origin.queue, origin.id);
}

/** A UUID v5 (RFC 9562 section 5.5) in {@link NAMESPACE}: by Bun, or for the command on Node the same by hand. */
function nameUuid(name: string): string {
  if (typeof Bun !== "undefined") return Bun.randomUUIDv5(name, NAMESPACE);
  const bytes = createHash("sha1").update(NAMESPACE.replaceAll("-", ""), "hex").update(name).digest().subarray(0, 16);
  bytes.writeUInt8((bytes.readUInt8(6) & 0x0f) | 0x50, 6);
  bytes.writeUInt8((bytes.readUInt8(8) & 0x3f) | 0x80, 8);
  return bytes.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

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
 * @throws  RangeError when a header would contain an invalid character, such as a line break
 */
export function buildRequest(event: WebhookEvent, delivery: string, nowMs: number): WebhookRequest {
  const { body } = event;
  const { url, secrets, headers } = event.endpoint;
  const timestamp = Math.floor(nowMs / 1000);
  if (FORBIDDEN.test(`${url.host}\t${event.type}\t${delivery}\t${event.id}`)) {
    throw new RangeError("invalid character in a header");
  }
  // Response bodies do not matter, and a compressed one could be a decompression bomb: ask for identity.
  const head =
    `Host: ${url.host}\r\n` +
    `User-Agent: ${USER_AGENT}\r\n` +
    `Content-Type: application/json\r\n` +
    `Content-Length: ${body.length}\r\n` +
    `Accept-Encoding: identity\r\n` +
    `X-Fluxdrop-Event: ${event.type}\r\n` +
    `X-Fluxdrop-Delivery: ${delivery}\r\n` +
    `X-Fluxdrop-Timestamp: ${timestamp}\r\n` +
    `X-Fluxdrop-Signature: ${signFluxdrop(body, secrets[0])}\r\n` +
    `webhook-id: ${event.id}\r\n` +
    `webhook-timestamp: ${timestamp}\r\n` +
    `webhook-signature: ${signStandard(event.id, timestamp, body, secrets)}\r\n`;
  return { url, head: headers === undefined ? head : head + headers, body };
}

const names = new WeakMap<URL, string>();

/** An endpoint's URL as logs and the board show it: without query and fragment, which may contain tokens. */
export function endpointName(url: URL): string {
  const known = names.get(url);
  if (known !== undefined) return known;
  const name = url.origin + url.pathname;
  names.set(url, name);
  return name;
}

const keys = new WeakMap<URL, string>();

/** An endpoint's identity: the URL with its query, without its fragment. Never shown. */
export function endpointKey(url: URL): string {
  const known = keys.get(url);
  if (known !== undefined) return known;
  const key = endpointName(url) + url.search;
  keys.set(url, key);
  return key;
}
