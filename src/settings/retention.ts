/**
 * The settings of what is kept after an attempt. Pure.
 */
import { MAX_LOG_AGE_MS, MAX_LOG_SIZE } from "../log/attempt.ts";
import { setting } from "./setting.ts";
import { durationMs, flag, integer, size } from "./values.ts";

const MINUTE_MS = 60 * 1000;

/** Part of the table of settings, in the order of the docs. */
export const RETENTION_SETTINGS = {
  logSize: setting(
    "WEBHOOK_LOG_SIZE",
    "10",
    integer(1, MAX_LOG_SIZE),
    `a whole number from 1 to ${MAX_LOG_SIZE}`,
    "attempts kept in each user's log",
  ),
  logAgeMs: setting(
    "WEBHOOK_LOG_AGE",
    "7d",
    durationMs(MINUTE_MS, MAX_LOG_AGE_MS),
    "a duration of 1m to 365d",
    "how long they are kept at most",
  ),
  keepResponseBytes: setting(
    "WEBHOOK_KEEP_RESPONSE",
    "1kb",
    size(0, 16 * 1024),
    "0, or a size of up to 16kb",
    "how much of its body is kept of a failed attempt's response, for operators; 0 keeps no responses",
  ),
  showResponse: setting(
    "WEBHOOK_SHOW_RESPONSE",
    "0",
    flag,
    "0 or 1",
    "1 adds these responses to the attempts that backends read and show to customers",
  ),
  keepCompleted: setting(
    "WEBHOOK_KEEP_COMPLETED",
    "1000",
    integer(1, 1_000_000),
    "a whole number from 1 to 1000000",
    "completed events that the queue keeps, for a day at most",
  ),
  keepFailed: setting(
    "WEBHOOK_KEEP_FAILED",
    "10000",
    integer(1, 1_000_000),
    "a whole number from 1 to 1000000",
    "failed events that the queue keeps, to be redelivered, for 7 days at most",
  ),
};
