/**
 * Whether this worker itself seems to be cut off: then the failures of its attempts say nothing about endpoints.
 */

const MINUTE_MS = 60 * 1000;
const SPANS = 10; // of 1 min: how far back it looks
const HOUR_MS = 60 * MINUTE_MS;
const HOURS = 24; // how far back endpoints are known
const ENOUGH = 20; // endpoints
const WORKING_SHARE = 1 / 5; // of attempts that succeed

/** What was attempted in a time span. */
interface Span {
  readonly from: number;
  made: number;
  succeeded: number;
  /** No more than {@link ENOUGH}. */
  readonly endpoints: Set<string>;
}

/** Watches all attempts of a worker process. */
export interface OutageWatch {
  /** @param endpoint  its URL, as it is shown */
  attempted(endpoint: string, isSuccess: boolean): void;
  /**
   * Whether fewer than 1 in 5 attempts of the last 10 minutes succeeded, to 20 endpoints or more, or to all that were attempted within a day
   * if they are fewer. A single endpoint proves nothing.
   */
  readonly isOurs: boolean;
}

/** @param now  monotonic, ms */
export function createOutageWatch(now: () => number = () => performance.now()): OutageWatch {
  const recent: Span[] = [];
  const day: Span[] = [];
  const at = (spans: Span[], lengthMs: number, most: number, nowMs: number): Span => {
    const last = spans.at(-1);
    if (last !== undefined && nowMs < last.from + lengthMs) return last;
    const span = { from: nowMs, made: 0, succeeded: 0, endpoints: new Set<string>() };
    spans.push(span);
    while (spans.length > most || (spans[0] as Span).from <= nowMs - lengthMs * most) spans.shift();
    return span;
  };
  const count = (span: Span, endpoint: string, isSuccess: boolean) => {
    span.made += 1;
    if (isSuccess) span.succeeded += 1;
    if (span.endpoints.size < ENOUGH) span.endpoints.add(endpoint);
  };
  const sum = (spans: readonly Span[], part: "made" | "succeeded") =>
    spans.reduce((total, span) => total + span[part], 0);
  const countEndpoints = (spans: readonly Span[]) => new Set(spans.flatMap(({ endpoints }) => [...endpoints])).size;
  return {
    attempted(endpoint, isSuccess) {
      const nowMs = now();
      count(at(recent, MINUTE_MS, SPANS, nowMs), endpoint, isSuccess);
      count(at(day, HOUR_MS, HOURS, nowMs), endpoint, isSuccess);
    },
    get isOurs() {
      const nowMs = now();
      at(recent, MINUTE_MS, SPANS, nowMs);
      at(day, HOUR_MS, HOURS, nowMs);
      const known = Math.min(ENOUGH, countEndpoints(day));
      if (known < 2 || countEndpoints(recent) < known) return false;
      return sum(recent, "succeeded") < sum(recent, "made") * WORKING_SHARE;
    },
  };
}
