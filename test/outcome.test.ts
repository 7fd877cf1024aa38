import { expect, test } from "bun:test";
import {
  describeOutcome,
  errorCode,
  isDelivered,
  isSilence,
  type Outcome,
  statusCode,
} from "../src/delivery/outcome.ts";

const response = (status: number): Outcome => ({ kind: "response", status, retryAfter: "5", durationMs: 41 });

test.each<[Outcome, boolean, string | null, number | null, string]>([
  [response(200), true, null, 200, "HTTP 200 in 41 ms"],
  [response(201), true, null, 201, "HTTP 201 in 41 ms"],
  [response(204), true, null, 204, "HTTP 204 in 41 ms"],
  [response(299), true, null, 299, "HTTP 299 in 41 ms"],
  [response(0), false, "http_0", 0, "HTTP 0 in 41 ms"],
  [response(101), false, "http_101", 101, "HTTP 101 in 41 ms"],
  [response(199), false, "http_199", 199, "HTTP 199 in 41 ms"],
  [response(300), false, "http_300", 300, "HTTP 300 in 41 ms"],
  [response(304), false, "http_304", 304, "HTTP 304 in 41 ms"],
  [response(410), false, "http_410", 410, "HTTP 410 in 41 ms"],
  [response(503), false, "http_503", 503, "HTTP 503 in 41 ms"],
  [response(999), false, "http_999", 999, "HTTP 999 in 41 ms"],
  [{ kind: "failure", code: "timeout", durationMs: 10000 }, false, "timeout", null, "timeout after 10000 ms"],
  [{ kind: "failure", code: "tls", durationMs: 7 }, false, "tls", null, "tls after 7 ms"],
  [{ kind: "failure", code: "tls", cause: "expired", durationMs: 12 }, false, "tls", null, "tls (expired) after 12 ms"],
  // Where a name led to is for operators only: it would show a customer which internal names there are.
  [{ kind: "failure", code: "dns", cause: "private", durationMs: 3 }, false, "dns", null, "dns after 3 ms"],
  [{ kind: "blocked", range: "loopback", durationMs: 0 }, false, "blocked_address", null, "blocked_address (loopback)"],
  [{ kind: "blocked", code: "blocked_port", durationMs: 0 }, false, "blocked_port", null, "blocked_port"],
  [{ kind: "blocked", code: "https_required", durationMs: 0 }, false, "https_required", null, "https_required"],
  [{ kind: "failure", code: "http2_only", durationMs: 9 }, false, "http2_only", null, "http2_only after 9 ms"],
  [{ kind: "fault", code: "proxy", durationMs: 5 }, false, "proxy", null, "proxy after 5 ms"],
  [{ kind: "fault", code: "resolver", durationMs: 3 }, false, "resolver", null, "resolver after 3 ms"],
])("%j: delivered %p, error %p, status %p, in words %p", (outcome, delivered, error, status, words) => {
  expect(isDelivered(outcome)).toBe(delivered);
  expect(errorCode(outcome)).toBe(error);
  expect(statusCode(outcome)).toBe(status);
  expect(describeOutcome(outcome)).toBe(words);
});

test.each<[boolean, Outcome]>([
  [true, { kind: "failure", code: "timeout", durationMs: 1 }],
  [true, { kind: "failure", code: "tls", cause: "expired", durationMs: 1 }],
  [true, { kind: "failure", code: "http2_only", durationMs: 1 }],
  [true, { kind: "fault", code: "resolver", durationMs: 1 }],
  [false, { kind: "fault", code: "proxy", cause: "connection_refused", durationMs: 1 }],
  [false, { kind: "fault", code: "resources", durationMs: 1 }],
  [false, { kind: "blocked", code: "https_required", durationMs: 0 }],
  [false, response(503)],
])("counts as the endpoint's silence: %p, for %j", (expected, outcome) => {
  expect(isSilence(outcome)).toBe(expected);
});
