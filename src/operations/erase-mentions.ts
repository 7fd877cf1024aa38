/**
 * Finds a user's id in BullMQ's event stream, for the command `forget`.
 */
import { keysOf } from "../queue/layout.ts";
import type { OpenShard } from "../queue/open-shard.ts";

const PIECE = 200; // entries read at once

/**
 * Count, and optionally remove, entries of BullMQ's event stream that contain the user's id. The stream (about 10,000 entries)
 * has only job ids and states, so this matters only where a backend builds job ids from user ids.
 */
export async function handleMentions(
  { client, valkey }: Pick<OpenShard, "client" | "valkey">,
  userId: string,
  isRemoving: boolean,
): Promise<number> {
  const key = keysOf(client).events;
  const isMention = createMention(userId);
  let found = 0;
  for (let from = "-"; ; ) {
    const entries = await valkey.xrange(key, from, "+", "COUNT", PIECE);
    const theirs = entries.filter(([, fields]) => fields.some(isMention)).map(([id]) => id);
    found += theirs.length;
    if (isRemoving && theirs.length > 0) await valkey.xdel(key, ...theirs);
    if (entries.length < PIECE) return found;
    from = `(${entries.at(-1)?.[0]}`;
  }
}

/** Whether a text contains an id as a whole: `usr_42` does not contain `usr_4`. */
function createMention(userId: string): (text: string) => boolean {
  const literal = userId.replaceAll(/[^A-Za-z0-9]/g, "\\$&"); // RegExp.escape, which Node 20 does not have
  const pattern = new RegExp(`(?<![A-Za-z0-9])${literal}(?![A-Za-z0-9])`);
  return (text) => pattern.test(text);
}
