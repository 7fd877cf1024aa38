/**
 * What a kept job's event looks like on the wire, for operators: request line, headers and body, without secrets.
 */
import { ContractError, type ContractIssue, checkEvent, writeBody } from "../delivery/contract.ts";
import { parseExact } from "../delivery/exact-json.ts";
import { EVENT_TYPE, EVENT_TYPE_FORM, MAX_BODY_BYTES } from "../delivery/limits.ts";
import { buildRequest, endpointName, eventIdOf } from "../delivery/request.ts";
import type { Job } from "../queue/worker.ts";
import { printableJson } from "../runtime/printable.ts";
import { maskSecrets } from "./mask.ts";
import { MASK } from "./mask-text.ts";

const SHOWN = 256 * 1024; // characters of a body; WEBHOOK_MAX_BODY's default, so that nearly all are shown in full

/** In place of an endpoint's name, for an event that names none. */
const ALL_ENDPOINTS = "all endpoints that want it";

/** Headers that are different on every attempt, and what is shown in place of their values. */
const PER_ATTEMPT: Readonly<Record<string, string>> = {
  "x-fluxdrop-delivery": "<a new UUID for each attempt>",
  "x-fluxdrop-timestamp": "<when the attempt starts, in seconds>",
  "webhook-timestamp": "<when the attempt starts, in seconds>",
  "x-fluxdrop-signature": "<not shown>",
  "webhook-signature": "<not shown>",
};

/** An event as its endpoint gets it. */
export interface Payload {
  /** The event's id. */
  readonly id: string;
  /** The event type. */
  readonly event: string;
  /** A URL without its query, or a registered endpoint's id; for an event that names none, words that say so. */
  readonly endpoint: string;
  /** When the backend enqueued it, epoch ms. */
  readonly enqueuedAt: number;
  /** The request line and the headers, a line each. Signatures and what differs between attempts are described, not shown. */
  readonly head: string;
  /** The body, byte for byte unless it {@link isMasked}; invisible characters are escaped as JSON allows. */
  readonly body: string;
  /** The body with line breaks and indentation; undefined when it is cut off. */
  readonly formatted: string | undefined;
  /** Size of the body as sent, in bytes. */
  readonly bytes: number;
  /** Whether secrets or queries of URLs in the body are masked. */
  readonly isMasked: boolean;
  /** Whether {@link body} is only the beginning. */
  readonly isCut: boolean;
}

/**
 * Build an event's request as the worker does, from its job.
 *
 * @returns the violations of the contract, when the event cannot be sent
 * @throws  never
 */
export function describePayload(job: Job, nowMs: number): Payload | readonly ContractIssue[] {
  if (!EVENT_TYPE.test(job.name)) return [{ path: "name", message: `expected ${EVENT_TYPE_FORM}` }];
  try {
    // Which event types there are, and whether events may name no endpoint, does not matter for what would be sent.
    const { type, data } = checkEvent(job.name, job.data, job.timestamp, new Set([job.name]), true);
    const id = eventIdOf(job, data.id);
    const body = writeBody(id, type, job.timestamp, data.data, MAX_BODY_BYTES);
    // Where a registered endpoint is, is known to the registry alone, and may change until the next attempt.
    const { endpoint: named } = data;
    const registered = named === undefined ? ALL_ENDPOINTS : "id" in named ? named.id : undefined;
    const url = new URL(named === undefined || "id" in named ? "http://localhost/" : named.url);
    const event = { id, type, timestampMs: job.timestamp, userId: data.userId, body };
    // The secret may be sealed, and the signatures are not shown: any other does.
    const endpoint = { url, secrets: ["not shown"] as const };
    const { head } = buildRequest({ ...event, expiresAtMs: Infinity, endpoint }, crypto.randomUUID(), nowMs);
    const text = body.toString();
    const masked = printableJson(String(maskSecrets(text, { about: job.data, keepsBidi: true })));
    const isCut = masked.length > SHOWN;
    return {
      ...{ id, event: type, endpoint: registered ?? endpointName(url), enqueuedAt: job.timestamp, bytes: body.length },
      head: registered === undefined ? describeHead(url, head) : describeRegistered(url, head),
      body: isCut ? masked.slice(0, SHOWN) : masked,
      formatted: isCut ? undefined : format(masked),
      isMasked: masked !== printableJson(text),
      isCut,
    };
  } catch (error) {
    if (error instanceof ContractError) return error.issues;
    throw error;
  }
}

/** JSON with indentation; undefined for the words that stand for a body that was too much to search for secrets. */
function format(text: string): string | undefined {
  try {
    return printableJson(JSON.stringify(parseExact(text), null, 2));
  } catch {
    return undefined;
  }
}

function describeRegistered(url: URL, head: string): string {
  const described = describeHead(url, head)
    .replace(/^POST \S+/, "POST <the endpoint's path>")
    .replace(/^Host: .*$/m, "Host: <the endpoint's host>");
  return `${described}\n<headers of the endpoint's own, if it has some>`;
}

function describeHead({ pathname, search }: URL, head: string): string {
  const query = search === "" ? "" : `?${MASK}`;
  const headers = head
    .trimEnd()
    .split("\r\n")
    .map((line) => {
      const name = line.slice(0, line.indexOf(":"));
      return `${name}: ${PER_ATTEMPT[name.toLowerCase()] ?? line.slice(name.length + 2)}`;
    });
  return [`POST ${pathname}${query} HTTP/1.1`, ...headers].join("\n");
}
