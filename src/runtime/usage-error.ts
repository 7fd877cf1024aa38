/**
 * What a caller of the package is told when the call itself is at fault.
 */

/** The package was called in a way that cannot be meant. Nothing was done, and calling again would change nothing. */
export class UsageError extends RangeError {
  override readonly name = "UsageError";
  readonly code = "INVALID_ARGUMENT";
}
