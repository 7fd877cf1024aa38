/**
 * Errors of the registry of endpoints. Nothing was changed.
 */

/** Another change came first, or the endpoint is in a state that does not allow this one. Read it, and decide again. */
export class ConflictError extends Error {
  override readonly name = "ConflictError";
  readonly code = "CONFLICT";
}

/** The user has no endpoint of this id. */
export class NotFoundError extends Error {
  override readonly name = "NotFoundError";
  readonly code = "NOT_FOUND";
}

/** There would be more endpoints of a user, or secrets of an endpoint, than there may be. */
export class LimitError extends Error {
  override readonly name = "LimitError";
  readonly code = "LIMIT";
}
