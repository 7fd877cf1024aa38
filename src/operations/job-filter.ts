/**
 * Filters jobs by user, endpoint and event type.
 */
import { endpointKey, endpointName } from "../delivery/request.ts";

/** A host, and a port unless it is the scheme's default. */
export interface HostFilter {
  /** As in `URL.hostname`: lowercase, without a port. */
  readonly hostname: string;
  /** Undefined for the scheme's default, 80 or 443. */
  readonly port: string | undefined;
}

/** A job must match every given field. */
export interface JobFilter {
  readonly userId?: string | undefined;
  readonly host?: HostFilter | undefined;
  /** A URL matches exactly if it has a query, and otherwise ignores queries. A text is the id of a registered endpoint. */
  readonly endpoint?: URL | string | undefined;
  /** The event type. */
  readonly event?: string | undefined;
}

/** The part of a job that filters need. */
export interface FilteredJob {
  readonly name: string;
  /** Undefined when the data is not a JSON object. */
  readonly data: Readonly<Record<string, unknown>> | undefined;
  /** The id of the registered endpoint to which it keeps, though its data names none, see src/queue/pin.ts. */
  readonly pinnedTo?: string | undefined;
  /** Where its registered endpoint is, see registered-urls.ts. */
  readonly registeredUrl?: URL | undefined;
}

/** Parse `host` or `host:port`, as shown by `fluxhook status`; undefined when invalid. */
export function parseHost(text: string): HostFilter | undefined {
  if (/[/?#@\\\s]/.test(text) || !URL.canParse(`http://${text}`)) return undefined;
  const { hostname } = new URL(`http://${text}`);
  return { hostname, port: /:(\d+)$/.exec(text)?.[1]?.replace(/^0+(?=\d)/, "") };
}

/** Parse a job's data; undefined when it is not a JSON object. Never throws. */
export function parseObject(text: string | null): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(text ?? "");
    return typeof value === "object" && value !== null && !Array.isArray(value)
      ? (value as Record<string, unknown>)
      : undefined;
  } catch {
    return undefined;
  }
}

/** The user in a job's data. */
export function userOf({ data }: FilteredJob): string | undefined {
  return typeof data?.userId === "string" ? data.userId : undefined;
}

/**
 * The endpoint's URL: that in the job's data, or that of the registered endpoint if it was looked up. Undefined when it is invalid or
 * not known.
 */
export function urlOf({ data, registeredUrl }: FilteredJob): URL | undefined {
  const { url } = (data?.endpoint ?? {}) as { url?: unknown };
  if (url === undefined) return registeredUrl;
  return typeof url === "string" && URL.canParse(url) ? new URL(url) : undefined;
}

/** The id of the registered endpoint that a job's data names, or to which it keeps; undefined when there is none, or none yet. */
export function endpointIdOf({ data, pinnedTo }: FilteredJob): string | undefined {
  if (data?.endpoint === undefined) return pinnedTo;
  const { url, id } = (data.endpoint ?? {}) as { url?: unknown; id?: unknown };
  return typeof id === "string" && url === undefined ? id : undefined;
}

/** A registered endpoint as people read it: `main (https://hooks.example.com/in)`. @param where  its URL if it is known, or its id */
export function nameRegistered(id: string, where: string | null | undefined): string {
  return where == null || where === id ? id : `${id} (${where})`;
}

/** Whether a filter depends on where endpoints are: jobs of registered ones match only with their `registeredUrl`. */
export function needsUrls({ host, endpoint }: JobFilter): boolean {
  return host !== undefined || endpoint instanceof URL;
}

/**
 * Whether a job matches a filter. Jobs with unreadable data match nothing, not even by name.
 *
 * @throws  never
 */
export function isMeant(job: FilteredJob, { userId, host, endpoint, event }: JobFilter): boolean {
  if (job.data === undefined) return false;
  if (userId !== undefined && userOf(job) !== userId) return false;
  if (event !== undefined && job.name !== event) return false;
  if (typeof endpoint === "string" && endpointIdOf(job) !== endpoint) return false;
  if (!needsUrls({ host, endpoint })) return true;
  const url = urlOf(job);
  if (url === undefined) return false;
  return (host === undefined || isAt(url, host)) && (!(endpoint instanceof URL) || isEndpoint(url, endpoint));
}

/** Whether a URL is at a host. */
export function isAt({ hostname, port, protocol }: URL, wanted: HostFilter): boolean {
  if (hostname !== wanted.hostname) return false;
  return wanted.port === undefined ? port === "" : wanted.port === (port || (protocol === "https:" ? "443" : "80"));
}

function isEndpoint(url: URL, wanted: URL): boolean {
  return wanted.search === "" ? endpointName(url) === endpointName(wanted) : endpointKey(url) === endpointKey(wanted);
}
