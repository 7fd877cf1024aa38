/**
 * Validation of the options and field names that a backend passes to the package. Errors name the field but never its value,
 * which may be a secret. Pure.
 */

import { EVENT_TYPE, EVENT_TYPE_FORM, MAX_BODY_BYTES, MAX_EVENT_TYPES } from "../delivery/limits.ts";
import { MAX_ATTEMPTS } from "../delivery/retry.ts";
import { type AttemptQuery, findQueryProblems, QUERY_FIELDS } from "../log/attempt-query.ts";
import { isQueueName, QUEUE_NAME_FORM } from "../queue/layout.ts";
import { MAX_SHARDS, type Shard, shardingProblem, shardsOf } from "../queue/shards.ts";
import { UsageError } from "../runtime/usage-error.ts";
import { nearest } from "../settings/misspelled.ts";
import { isClusterUrl, isValkeyUrl, VALKEY_URL_FORMS } from "../valkey/url.ts";

/** A call after `close()`. */
export class ClosedError extends Error {
  override readonly name = "ClosedError";
  readonly code = "CLOSED";
  constructor() {
    super("this Fluxhook was closed: create another");
  }
}

type Given = Readonly<Record<string, unknown>>;

const MAX_ENDPOINTS = 1_000; // as of WEBHOOK_MAX_ENDPOINTS
const MAX_TIMER_MS = 2 ** 31 - 1;
const MAX_DELAY_MS = 10 * 365 * 24 * 60 * 60 * 1000; // 10 years: BullMQ's scores of delayed jobs end in 2039

const FLUXHOOK_OPTIONS = [
  "valkeyUrl",
  "shards",
  "shardsBefore",
  "drainUrl",
  "queue",
  "timeoutMs",
  "maxBodyBytes",
  "sealingKey",
  "registry",
  "allowPlainSecrets",
  "maxEndpoints",
  "events",
];
const ENQUEUE_OPTIONS = ["delayMs", "attempts", "backoff"];
const BACKOFF_OPTIONS = ["type", "delay", "jitter"];

/** Whether a value is an object other than an array. */
export function isRecord(value: unknown): value is Given {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * Find unknown names, with a suggestion for each if one is close.
 *
 * @param what  completes "x is not …": "an option"
 * @returns name and message of each; names with undefined values are skipped
 */
export function findUnknown(given: Given, known: readonly string[], what: string): { name: string; message: string }[] {
  const unknown = Object.keys(given).filter((name) => !known.includes(name) && given[name] !== undefined);
  return unknown.map((name) => {
    const word = name.toLowerCase().replaceAll(/[^a-z\d]/g, ""); // as VALKEY_URL is spelled in the environment
    const isPart = (whole: string) => word !== "" && (whole.startsWith(word) || whole.endsWith(word));
    const meant = nearest(name, known) ?? known.find((other) => isPart(other.toLowerCase()));
    const hint = meant === undefined ? `expected one of ${known.join(", ")}` : `did you mean ${meant}?`;
    return { name, message: `not ${what}; ${hint}` };
  });
}

/** Validate the options of `createFluxhook`. @throws UsageError */
export function checkFluxhookOptions(options: unknown): void {
  expectOptions(options, `{ valkeyUrl: "redis://127.0.0.1:6379" }`, FLUXHOOK_OPTIONS);
  const { valkeyUrl, shards, shardsBefore, drainUrl, queue, timeoutMs, maxBodyBytes, sealingKey, events } = options;
  const { registry, allowPlainSecrets, maxEndpoints } = options;
  const areUrls = (value: unknown) => typeof value === "string" && value.trim().split(/\s+/).every(isValkeyUrl);
  expectIf(valkeyUrl, areUrls, `valkeyUrl to be ${VALKEY_URL_FORMS}, or several separated by blanks`);
  for (const [name, count] of Object.entries({ shards, shardsBefore })) {
    expectIf(count, isWhole(1, MAX_SHARDS), `${name} to be a whole number from 1 to ${MAX_SHARDS}`);
  }
  const isOne = (value: unknown) => typeof value === "string" && isValkeyUrl(value) && !isClusterUrl(value);
  expectIf(drainUrl, isOne, "drainUrl to be a redis://, rediss:// or redis+sentinel:// URL");
  expectIf(queue, (value) => typeof value === "string" && isQueueName(value), `queue to be ${QUEUE_NAME_FORM}`);
  expectIf(timeoutMs, isBetween(1, MAX_TIMER_MS), "timeoutMs to be a number of ms, 1 or more");
  expectIf(maxBodyBytes, isWhole(1, MAX_BODY_BYTES), `maxBodyBytes to be a whole number from 1 to ${MAX_BODY_BYTES}`);
  const isKey = (value: unknown) => typeof value === "string" || value instanceof Uint8Array;
  expectIf(sealingKey, isKey, "sealingKey to be 32 bytes, or the same in base64");
  expectIf(registry, (value) => typeof value === "boolean", "registry to be true or false");
  expectIf(allowPlainSecrets, (value) => typeof value === "boolean", "allowPlainSecrets to be true or false");
  expectIf(maxEndpoints, isWhole(1, MAX_ENDPOINTS), `maxEndpoints to be a whole number from 1 to ${MAX_ENDPOINTS}`);
  expectIf(
    events,
    areEventTypes,
    `events to be an array of 1 to ${MAX_EVENT_TYPES} event types, each of ${EVENT_TYPE_FORM}`,
  );
}

/** The options that decide about shards, as of `FluxhookOptions`. */
interface ShardOptions {
  readonly valkeyUrl?: string | undefined;
  readonly shards?: number | undefined;
  readonly queue?: string | undefined;
  readonly drainUrl?: string | undefined;
  readonly shardsBefore?: number | undefined;
}

/** The shards that valid options name. @throws UsageError when they do not go together */
export function shardsFor(options: ShardOptions): [Shard, ...Shard[]] {
  const { valkeyUrl = "redis://127.0.0.1:6379", shards = 1, queue = "webhooks", drainUrl, shardsBefore } = options;
  const sharding = { queue, shards, before: shardsBefore, drainUrl, valkeyUrls: valkeyUrl.trim().split(/\s+/) };
  const problem = shardingProblem(sharding);
  if (problem === undefined) return shardsOf(sharding);
  const named = {
    ...{ VALKEY_URL: "valkeyUrl", WEBHOOK_SHARDS_BEFORE: "shardsBefore", WEBHOOK_SHARDS: "shards" },
    ...{ WEBHOOK_QUEUE: "queue", WEBHOOK_DRAIN_URL: "drainUrl" },
  };
  throw new UsageError(Object.entries(named).reduce((text, [from, to]) => text.replaceAll(from, to), problem));
}

/** Validate the query of `readAttempts`. @throws UsageError */
export function checkAttemptQuery(query: unknown): asserts query is AttemptQuery {
  expectOptions(query, `{ outcome: "failed" }`, QUERY_FIELDS);
  const problems = findQueryProblems(query);
  if (problems.length > 0) throw new UsageError(problems.join("; "));
}

/** Refuse unknown fields of an endpoint to register. @throws UsageError */
export function checkEndpointFields(endpoint: unknown, known: readonly string[]): void {
  const example = '{ url: "https://example.com/webhooks" }';
  if (!isRecord(endpoint)) throw new UsageError(`expected the endpoint to be an object, as in ${example}`);
  refuseUnknown(endpoint, known, "", "a field of an endpoint");
}

/** Refuse unknown options of a change of an endpoint. @throws UsageError */
export function checkChangeOptions(options: unknown, known: readonly string[]): void {
  expectOptions(options, "{ ifVersion: endpoint.version }", known);
}

/** Validate the options of `endpoints.missed`. @throws UsageError */
export function checkMissedQuery(query: unknown): void {
  expectOptions(query, "{ limit: 100 }", ["limit", "cursor"]);
  const { limit, cursor } = query;
  expectIf(limit, isWhole(1, MAX_MISSED_LIMIT), `limit to be a whole number from 1 to ${MAX_MISSED_LIMIT}`);
  expectIf(cursor, (value) => typeof value === "string" && CURSOR.test(value), "cursor to be that of a page before");
}

/** Validate the options of `endpoints.explain`. @throws UsageError */
export function checkExplainOptions(options: unknown): void {
  expectOptions(options, "{ enqueuedAt: 1793577600000 }", ["enqueuedAt"]);
  expectIf(options.enqueuedAt, Number.isFinite, "enqueuedAt to be epoch ms");
}

/** Validate the options of `endpoints.replay`. @throws UsageError */
export function checkReplayOptions(options: unknown): void {
  expectOptions(options, `{ since: new Date("2026-11-24") }`, ["since", "until", "dryRun"]);
  const { since, until, dryRun } = options;
  expectIf(since, isTime, `since to be ${TIME_FORM}`);
  expectIf(until, isTime, `until to be ${TIME_FORM}`);
  expectIf(dryRun, (value) => typeof value === "boolean", "dryRun to be true or false");
}

/** Validate the options of `endpoints.enable`. @throws UsageError */
export function checkEnableOptions(options: unknown): void {
  expectOptions(options, "{ replay: true }", ["ifVersion", "replay"]);
  const isReplay = (value: unknown) => typeof value === "boolean" || isTime(value);
  expectIf(options.replay, isReplay, `replay to be true, or the time of the oldest event: ${TIME_FORM}`);
}

/** Validate the options of `enqueue` and `enqueueMany`. @throws UsageError */
export function checkEnqueueOptions(options: unknown): void {
  expectOptions(options, "{ delayMs: 5000 }", ENQUEUE_OPTIONS);
  const { delayMs, attempts, backoff } = options;
  expectIf(delayMs, isWhole(0, MAX_DELAY_MS), "delayMs to be a whole number of ms, from 0 to 10 years");
  expectIf(attempts, isWhole(1, MAX_ATTEMPTS), `attempts to be a whole number from 1 to ${MAX_ATTEMPTS}`);
  if (backoff === undefined || isPause(backoff)) return;
  if (!isRecord(backoff)) throw new UsageError(`expected backoff to be ms above 0, or ${BACKOFF_EXAMPLE}`);
  refuseUnknown(backoff, BACKOFF_OPTIONS, "backoff.");
  const { type, delay, jitter } = backoff;
  if (type !== "fixed" && type !== "exponential")
    throw new UsageError("expected backoff.type to be fixed or exponential");
  if (!isPause(delay)) throw new UsageError("expected backoff.delay to be ms above 0");
  expectIf(jitter, isBetween(0, 1), "backoff.jitter to be a number from 0 to 1");
}

const BACKOFF_EXAMPLE = '{ type: "fixed", delay: 5000 } or { type: "exponential", delay: 5000 }';

const MAX_MISSED_LIMIT = 1_000;
const CURSOR = /^-?\d+(?:\.\d+)?:/;
const TIME_FORM = "a Date or epoch ms";
const isTime = (value: unknown) =>
  (typeof value === "number" || value instanceof Date) && Number.isFinite(Number(value));
const areEventTypes = (value: unknown) =>
  Array.isArray(value) &&
  isBetween(1, MAX_EVENT_TYPES)(value.length) &&
  value.every((name) => typeof name === "string" && EVENT_TYPE.test(name));
const isBetween = (min: number, max: number) => (value: unknown) =>
  typeof value === "number" && value >= min && value <= max;
const isWhole = (min: number, max: number) => (value: unknown) =>
  Number.isSafeInteger(value) && isBetween(min, max)(value);
const isPause = (value: unknown) => isBetween(Number.MIN_VALUE, Number.MAX_VALUE)(value);

function expectOptions(options: unknown, example: string, known: readonly string[]): asserts options is Given {
  if (!isRecord(options)) throw new UsageError(`expected the options to be an object, as in ${example}`);
  refuseUnknown(options, known, "");
}

function refuseUnknown(given: Given, known: readonly string[], prefix: string, what = "an option"): void {
  const unknown = findUnknown(given, known, what);
  if (unknown.length === 0) return;
  throw new UsageError(unknown.map(({ name, message }) => `${prefix}${name} is ${message}`).join("; "));
}

/** Skips undefined values. */
function expectIf(value: unknown, isRight: (value: unknown) => boolean, what: string): void {
  if (value !== undefined && !isRight(value)) throw new UsageError(`expected ${what}`);
}
