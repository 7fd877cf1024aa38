/**
 * The demo's events: one of each type.
 */
import type { InlineJobData } from "../delivery/contract.ts";
import { EVENT_SAMPLES, type EventType } from "../events.ts";
import { homeAmong, type Shard } from "../queue/shards.ts";

const MAX_USERS = 6;

/** The user of the demo's events. */
export const DEMO_USER = "usr_demo";

/** The secret of the demo's receiver. Public, so never use it elsewhere. */
export const DEMO_SECRET = "whsec_Zmx1eGhvb2stZGVtby1zZWNyZXQh";

/** Where the demo's receiver listens, unless the port is taken. The README's snippets send there. */
export const DEMO_ENDPOINT = "http://127.0.0.1:8484/webhooks";

/**
 * The users of the demo's events: with several shards, one of each shard, at most six.
 *
 * @param shards  all of them
 */
export function demoUsers(shards: readonly [Shard, ...Shard[]]): string[] {
  const count = Math.min(MAX_USERS, shards.filter(({ isDrained }) => !isDrained).length);
  const users = new Map([[homeAmong(shards, DEMO_USER), DEMO_USER]]);
  for (let number = 2; users.size < count; number++) {
    const user = `${DEMO_USER}_${number}`;
    const home = homeAmong(shards, user);
    if (!users.has(home)) users.set(home, user);
  }
  return [...users.values()];
}

/** A sample job's data, signed with {@link DEMO_SECRET}. */
export function buildSample(type: EventType, url: string, userId = DEMO_USER): InlineJobData {
  return { userId, endpoint: { url, secret: DEMO_SECRET }, data: EVENT_SAMPLES[type] };
}
