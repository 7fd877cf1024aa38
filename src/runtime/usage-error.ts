/**
 * The error for incorrect calls of the package.
 */

/** The package was called incorrectly. Nothing was done, and retrying will not help. */
export class UsageError extends RangeError {
  override readonly name = "UsageError";
  readonly code = "INVALID_ARGUMENT";
}
