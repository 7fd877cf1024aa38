/**
 * Registered endpoints: what the registry stores about each. Pure.
 */
import type { StoredHeaders } from "./headers.ts";

/**
 * What an endpoint does with its events.
 *
 * - `enabled`   they are delivered
 * - `paused`    they wait, and their age stands still
 * - `disabled`  they are not attempted, but kept as missed
 */
export type EndpointState =
  | { readonly kind: "enabled" }
  | { readonly kind: "paused"; readonly since: number }
  | { readonly kind: "disabled"; readonly since: number; readonly reason: DisabledReason };

/** `manual`: by the backend or an operator. */
export type DisabledReason = "manual" | "gone" | "failing";

/** A secret as stored: sealed, unless the installation allows plain ones. */
export interface StoredSecret {
  readonly secret: string;
  /** Epoch ms. */
  readonly createdAt: number;
  /** From when on it no longer signs, epoch ms; undefined for the current one. */
  readonly expiresAt?: number | undefined;
}

/** How many attempts an endpoint gets, by all workers together. */
export interface RateLimit {
  /** On average: 0.01 to 10,000. */
  readonly perSecond: number;
  /** How many may be made at once after a lull, 1 to 10,000. 1 by default: attempts are evenly spaced. */
  readonly burst?: number | undefined;
}

/** The document of an endpoint, as stored: JSON behind its version and a space. Times are epoch ms, by Valkey's clock. */
export interface EndpointDocument {
  readonly url: string;
  readonly description?: string | undefined;
  /** Event types, or `prefix.*`; null for all. */
  readonly events: readonly string[] | null;
  /** 1 to 5, current first. */
  readonly secrets: readonly StoredSecret[];
  /** Null when it had a limit once: events may be waiting for that one. */
  readonly rateLimit?: RateLimit | null | undefined;
  readonly headers?: StoredHeaders | undefined;
  readonly metadata?: Readonly<Record<string, string>> | undefined;
  readonly createdAt: number;
  readonly updatedAt: number;
}

/** A time span, epoch ms. */
export interface Pause {
  readonly from: number;
  readonly until: number;
}

/** An endpoint, as the registry has it. */
export interface StoredEndpoint {
  readonly id: string;
  /** New with each change of the document; the ETag. */
  readonly version: string;
  readonly document: EndpointDocument;
  readonly state: EndpointState;
  /** Pauses that are over, on which the age of an event may still depend. */
  readonly pauses: readonly Pause[];
  /** When it was last enabled after it was disabled, or got another URL, epoch ms by Valkey's clock; undefined if it never was. */
  readonly began?: number | undefined;
  /** Set when the stored document cannot be read: then `document` has no URL and no secrets. */
  readonly isDamaged?: true | undefined;
}

export { ENDPOINT_ID } from "../delivery/limits.ts";

/** The field of the user's hash that is new with every change of any of its endpoints. No endpoint's id has a slash. */
export const VERSION_FIELD = "/version";
/** The field of the user's hash in a shard that the user has left, see homes/move.ts: the queue of the shard that has the endpoints. */
export const MOVED_FIELD = "/moved";
/** An endpoint's state, see {@link EndpointState}: `paused <ms>`, `disabled <reason> <ms>`, `deleted <ms>`; none while enabled. */
export const stateField = (id: string): string => `${id}/state`;
/** An endpoint's pauses that are over: `<from>-<until>`, separated by spaces. */
export const pausesField = (id: string): string => `${id}/pauses`;
/** When an endpoint began anew, see {@link StoredEndpoint.began}. */
export const beganField = (id: string): string => `${id}/began`;
