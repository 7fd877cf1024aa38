/**
 * One attempt, as logs, pages and API have it. Pure.
 */

/** Upper bound for `WEBHOOK_LOG_SIZE`. */
export const MAX_LOG_SIZE = 1_000;
/** Upper bound for `WEBHOOK_LOG_AGE`, ms. */
export const MAX_LOG_AGE_MS = 365 * 24 * 60 * 60 * 1000; // 365 days

/** What is kept of the response to a failed attempt. Secrets and signatures that the receiver echoed are masked. */
export interface KeptResponse {
  /** As in `HTTP/1.1 503 Service Unavailable`. */
  readonly status_line: string;
  /** The few that help to find a fault, by their name in lowercase. */
  readonly headers: Readonly<Record<string, string>>;
  /** The beginning of the body as text; a receiver chose it, so it may hold markup and control characters. */
  readonly body: string;
  /** Present when the body was longer than what is kept, or was not received to its end. */
  readonly is_truncated?: true;
  /** Why `body` is empty although the response had one. */
  readonly omitted?: "compressed" | "binary";
}

/** One attempt as it is stored and as the API returns it. */
export interface Attempt {
  /** The event's id: the same on every attempt. */
  readonly id: string;
  /** UUID of this attempt. */
  readonly delivery: string;
  /** 1-based. */
  readonly attempt: number;
  /** When it started, ISO 8601 with milliseconds. */
  readonly timestamp: string;
  /** The endpoint's URL without its query, which may carry a token. */
  readonly endpoint: string;
  /** The id under which the endpoint is registered; absent when the job named it in full. */
  readonly endpoint_id?: string;
  /** The event type. */
  readonly event: string;
  /** `null` when there was no response. */
  readonly status_code: number | null;
  readonly duration_ms: number;
  readonly success: boolean;
  /** `null` when delivered, else a short code: `timeout`, `dns`, `http_503`, … */
  readonly error: string | null;
  /** The cause when `error` is `tls`: `expired`, `wrong_host`, … Absent when unknown, and for other errors. */
  readonly cause?: string;
  /** The job's id, for finding and redelivering the event while its job is kept. */
  readonly job: string;
  /** On an attempt of a test event, absent otherwise. */
  readonly test?: true;
  /** For operators: what a failed attempt's response said, when it is kept and was asked for. */
  readonly response?: KeptResponse;
}
