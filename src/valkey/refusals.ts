/**
 * What an error that Valkey answers with says about the command: whether it was executed, and whether it ever will be. Pure.
 */

/**
 * - `later`    it was not executed, and will be once something passes: sent again, it does what it would have done
 * - `never`    it was not executed, and will not be as it stands: somebody has to change a right, a setting or the program
 * - `perhaps`  a part of it may have been executed: a script that failed halfway
 */
export type Refusal = "later" | "never" | "perhaps";

/**
 * By an error's first word, which is its code. A script is refused as a whole with one of these or not at all: Valkey looks at
 * memory, disk, replicas and role before a script's first write, and at none of them after it.
 *
 * @see  https://valkey.io/topics/protocol/#simple-errors
 */
export const REFUSALS: Readonly<Record<string, Refusal>> = {
  BUSY: "later", // a script runs for longer than busy-reply-threshold
  CLUSTERDOWN: "later", // a slot has no node, until another takes it over
  LOADING: "later", // it reads its data after a start
  MASTERDOWN: "later", // a replica without its primary
  MISCONF: "later", // it could not save to disk
  NOREPLICAS: "later", // fewer replicas than min-replicas-to-write
  OOM: "later", // maxmemory is reached
  READONLY: "later", // it is a replica: the new primary takes it
  TRYAGAIN: "later", // keys of a slot that is being moved
  UNBLOCKED: "later", // a command that waited, as its server became a replica

  ASK: "never", // another node's slot
  CROSSSLOT: "never", // keys of several slots
  EXECABORT: "never", // a transaction of which a command was refused
  MOVED: "never", // another node's slot
  NOAUTH: "never", // no password was given
  NOPERM: "never", // the user may not
  NOPROTO: "never", // a version of the protocol that it does not speak
  NOSCRIPT: "never", // ioredis sends the whole script then
  WRONGPASS: "never", // the password is wrong
};

/** What an error of Valkey says about the command that it answers. What is not in the table may have been executed. */
export function refusalOf(error: Error): Refusal {
  return REFUSALS[codeOf(error)] ?? "perhaps";
}

/** An error's code: `OOM`, `NOPERM`, … */
export function codeOf(error: Error): string {
  return error.message.slice(0, error.message.indexOf(" "));
}
