/**
 * Which jobs an operator means: by their own `userId`, `endpoint.url` and name.
 */
import { endpointKey, endpointName } from "../delivery/request.ts";

/** A host, and a port where it is not the scheme's own. */
export interface HostFilter {
  /** As `URL` writes it: lower case, without a port. */
  readonly hostname: string;
  /** Undefined: the scheme's own, 80 or 443. */
  readonly port: string | undefined;
}

/** A job must match all that is given. */
export interface JobFilter {
  readonly userId?: string | undefined;
  readonly host?: HostFilter | undefined;
  /** With a query: this URL. Without one: this URL, whatever its query. */
  readonly endpoint?: URL | undefined;
  /** The event type. */
  readonly event?: string | undefined;
}

/** What a job holds, as far as a filter needs it. */
export interface FilteredJob {
  readonly name: string;
  /** A JSON object; undefined when its data is none. */
  readonly data: Readonly<Record<string, unknown>> | undefined;
}

/** Read `host` or `host:port`, as `fluxhook status` names hosts; undefined when it is neither. */
export function parseHost(text: string): HostFilter | undefined {
  if (/[/?#@\\\s]/.test(text) || !URL.canParse(`http://${text}`)) return undefined;
  const { hostname } = new URL(`http://${text}`);
  return { hostname, port: /:(\d+)$/.exec(text)?.[1]?.replace(/^0+(?=\d)/, "") };
}

/** A job's data as an object; undefined for what is no JSON object. Never throws. */
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

/** A job's user, as its data has it. */
export function userOf({ data }: FilteredJob): string | undefined {
  return typeof data?.userId === "string" ? data.userId : undefined;
}

/** A job's URL; undefined when it is none. */
export function urlOf({ data }: FilteredJob): URL | undefined {
  const { url } = (data?.endpoint ?? {}) as { url?: unknown };
  return typeof url === "string" && URL.canParse(url) ? new URL(url) : undefined;
}

/**
 * Whether a job is meant. Data that cannot be read matches nothing, not even by the job's name.
 *
 * @throws  never
 */
export function isMeant(job: FilteredJob, { userId, host, endpoint, event }: JobFilter): boolean {
  if (job.data === undefined) return false;
  if (userId !== undefined && userOf(job) !== userId) return false;
  if (event !== undefined && job.name !== event) return false;
  if (host === undefined && endpoint === undefined) return true;
  const url = urlOf(job);
  if (url === undefined) return false;
  return (host === undefined || isAt(url, host)) && (endpoint === undefined || isEndpoint(url, endpoint));
}

function isAt({ hostname, port, protocol }: URL, wanted: HostFilter): boolean {
  if (hostname !== wanted.hostname) return false;
  return wanted.port === undefined ? port === "" : wanted.port === (port || (protocol === "https:" ? "443" : "80"));
}

function isEndpoint(url: URL, wanted: URL): boolean {
  return wanted.search === "" ? endpointName(url) === endpointName(wanted) : endpointKey(url) === endpointKey(wanted);
}
