/**
 * Limits of an event that more than one part of the program must know. Pure.
 */

/** What a user's id must be. */
export const USER_ID = /^[\x21-\x7e]{1,128}$/;

/** Completes "expected … to be". */
export const USER_ID_FORM = "1 to 128 visible ASCII characters";

/** The largest `WEBHOOK_MAX_BODY`, in bytes. */
export const MAX_BODY_BYTES = 16 * 1024 * 1024; // 16 MiB

/** `WEBHOOK_MAX_BODY` unless set, in bytes. */
export const DEFAULT_BODY_BYTES = 256 * 1024; // 256 KiB
