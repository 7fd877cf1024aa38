/**
 * Limits on events that several parts of the program share. Pure.
 */

/** The format of a user id. */
export const USER_ID = /^[\x21-\x7e]{1,128}$/;

/** The same in words, to follow "expected". */
export const USER_ID_FORM = "1 to 128 visible ASCII characters";

/** The format of a registered endpoint's id. No colon or slash: it is part of keys and job ids. */
export const ENDPOINT_ID = /^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$/;

/** The same in words. */
export const ENDPOINT_ID_FORM = "1 to 64 letters, digits, underscores and hyphens, beginning with a letter or digit";

/** Upper bound for `WEBHOOK_MAX_BODY`, in bytes. */
export const MAX_BODY_BYTES = 16 * 1024 * 1024; // 16 MiB

/** Default of `WEBHOOK_MAX_BODY`, in bytes. */
export const DEFAULT_BODY_BYTES = 256 * 1024; // 256 KiB

/** The format of an event type: safe in a header, a URL and a shell. */
export const EVENT_TYPE = /^[A-Za-z\d][A-Za-z\d._-]{0,127}$/;

/** The same in words. */
export const EVENT_TYPE_FORM =
  "1 to 128 letters, digits, dots, underscores and hyphens, beginning with a letter or digit";

/** Upper bound on the number of event types: each is a label of the metrics. */
export const MAX_EVENT_TYPES = 500;
