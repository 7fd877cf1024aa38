/**
 * What is wrong with a job or an event, as errors report it. Pure.
 */

/** One violation of the contract. */
export interface ContractIssue {
  /** The field: `data.endpoint.secret.1` in a job, `endpoint.secret.1` in an event of the package; empty for the whole. */
  readonly path: string;
  /** What was expected; never the value itself. */
  readonly message: string;
}

/** A job violates the contract. The message names every invalid field and what was expected there, never its value. */
export class ContractError extends Error {
  override readonly name = "ContractError";
  readonly code = "INVALID_EVENT";
  /** @param message  composed from the issues by default */
  constructor(
    readonly issues: readonly ContractIssue[],
    message = issues.map(describeIssue).join("; "),
  ) {
    super(message);
  }
}

/** `path: message`. */
function describeIssue({ path, message }: ContractIssue): string {
  return path === "" ? message : `${path}: ${message}`;
}
