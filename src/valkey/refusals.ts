/**
 * Classifies Valkey's error replies: was the command executed, and can it succeed later? Pure.
 */

/**
 * - `later`    not executed, for a temporary reason: it can be resent
 * - `never`    not executed, and resending will not help: a permission, a setting or the program has to change
 * - `perhaps`  part of it may have been executed, as with a script that failed halfway
 */
export type Refusal = "later" | "never" | "perhaps";

/**
 * By an error's first word, its code. With one of these a script is refused as a whole: Valkey checks memory, disk, replicas
 * and role only before a script's first write.
 *
 * @see  https://valkey.io/topics/protocol/#simple-errors
 */
export const REFUSALS: Readonly<Record<string, Refusal>> = {
  BUSY: "later", // a script has been running longer than busy-reply-threshold
  CLUSTERDOWN: "later", // a slot has no node until another takes over
  LOADING: "later", // it is loading its data after a start
  MASTERDOWN: "later", // a replica without its primary
  MISCONF: "later", // it could not save to disk
  NOREPLICAS: "later", // fewer replicas than min-replicas-to-write
  OOM: "later", // maxmemory is reached
  READONLY: "later", // it is a replica: send to the new primary
  TRYAGAIN: "later", // keys in a slot that is being moved
  UNBLOCKED: "later", // a blocked command's server became a replica

  ASK: "never", // another node's slot
  CROSSSLOT: "never", // keys in several slots
  EXECABORT: "never", // a command of the transaction was refused
  MOVED: "never", // another node's slot
  NOAUTH: "never", // no password was given
  NOPERM: "never", // the user lacks the permission
  NOPROTO: "never", // unsupported protocol version
  NOSCRIPT: "never", // ioredis then sends the script in full
  WRONGPASS: "never", // the password is wrong
};

/** Classify an error reply. Commands with an error that is not in the table may have been executed. */
export function refusalOf(error: Error): Refusal {
  return REFUSALS[codeOf(error)] ?? "perhaps";
}

/** An error's code: `OOM`, `NOPERM`, … */
export function codeOf(error: Error): string {
  return error.message.slice(0, error.message.indexOf(" "));
}
