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

/**
 * The user's endpoints are in another shard than this process looks in: they were moved by one that knows another number of shards.
 * Restart this one with the same `WEBHOOK_SHARDS` and `WEBHOOK_SHARDS_BEFORE`.
 */
export class EndpointsMoved extends Error {
  override readonly name = "EndpointsMoved";
  readonly code = "MOVED";
  /** @param queue  of the shard that has them, as far as that is known */
  constructor(
    readonly queue: string,
    message = `the user's endpoints were moved to shard ${queue}: this process needs the number of shards of those that moved them`,
  ) {
    super(message);
  }
}

/** What a user's key holds is not what the registry writes there. */
export class UnreadableEndpoints extends Error {
  override readonly name = "UnreadableEndpoints";
}
