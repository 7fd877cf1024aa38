/**
 * Endpoints as the registry shows them: never with a secret. Pure.
 */
import type { EndpointState, RateLimit, StoredEndpoint } from "./endpoint.ts";
import { showHeaders } from "./headers.ts";
import type { EndpointHealth } from "./health.ts";
import { liveSecrets } from "./secrets.ts";

/** An endpoint as the registry shows it: never with a secret. Times are epoch ms, by Valkey's clock. */
export interface Endpoint {
  readonly id: string;
  /** New with each change of the endpoint, but not of its state: for `ifVersion`. Empty for one that is damaged. */
  readonly version: string;
  readonly url: string;
  readonly description: string;
  /** Event types, or `prefix.*`; null for all. */
  readonly events: readonly string[] | null;
  /** How many attempts it gets; null for no limit. */
  readonly rateLimit: RateLimit | null;
  /** Names and the ends of values, as in `…9f2c`; of a value below 12 characters only `…`. */
  readonly headers: Readonly<Record<string, string>>;
  readonly metadata: Readonly<Record<string, string>>;
  readonly state: EndpointState;
  /** Of those that sign, current first. */
  readonly secrets: readonly { readonly createdAt: number; readonly expiresAt?: number | undefined }[];
  readonly createdAt: number;
  readonly updatedAt: number;
  /** Set when what is stored of it cannot be read: its events fail until it is `put` anew or deleted. */
  readonly isDamaged?: true;
}

/** An endpoint, and how its attempts have been going. */
export interface EndpointWithHealth extends Endpoint {
  readonly health: EndpointHealth;
}

/** Show a stored endpoint. @param nowMs  epoch ms: secrets that have expired by then are left out */
export function showEndpoint({ id, version, document, state, isDamaged }: StoredEndpoint, nowMs: number): Endpoint {
  const { url, description = "", events, rateLimit = null, headers = {}, metadata = {} } = document;
  const { createdAt, updatedAt } = document;
  const secrets = liveSecrets(document.secrets, nowMs).map(({ createdAt, expiresAt }) =>
    expiresAt === undefined ? { createdAt } : { createdAt, expiresAt },
  );
  return {
    ...{ id, version: isDamaged ? "" : version, url, description, events, rateLimit },
    headers: showHeaders(headers),
    ...{ metadata, state, secrets, createdAt, updatedAt },
    ...(isDamaged ? { isDamaged } : {}),
  };
}
