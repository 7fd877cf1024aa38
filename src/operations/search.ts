/**
 * Finds a user, an event, a delivery, a job or a host by what an operator pasted.
 */

/** Longest text to search for, in characters. */
export const MAX_SEARCH = 400;
