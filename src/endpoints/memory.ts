/**
 * What a worker remembers of a shard's endpoints, and as of which of the shard's changes. Pure.
 */
import { EVERYONE, userOf } from "./changes.ts";
import type { StoredEndpoint } from "./endpoint.ts";

const MAX_USERS = 10_000;

/** All endpoints of a user. */
export interface UsersEndpoints {
  /** Empty for a user who never had an endpoint. */
  readonly version: string;
  /** A deleted endpoint is remembered for a while. */
  readonly endpoints: ReadonlyMap<string, StoredEndpoint | "deleted">;
}

/** What a reader finds of the shard's changes, compared to the newest one that it knew when it asked. */
export const NEWS = {
  none: 0,
  /** Those since then, the newest first. */
  some: 1,
  /** Only the newest: nothing says what else has changed since then. */
  lost: 2,
  /** The list cannot be read. */
  unreadable: 3,
} as const;

export type News = (typeof NEWS)[keyof typeof NEWS];

/** All that is remembered is as it was while `newest` was the shard's newest change. */
export class Memory {
  /** Empty while the shard has no changes. */
  newest = "";
  readonly #users = new Map<string, UsersEndpoints>(); // used longest ago first

  get isEmpty(): boolean {
    return this.#users.size === 0;
  }

  recall(userId: string): UsersEndpoints | undefined {
    const known = this.#users.get(userId);
    if (known === undefined) return undefined;
    this.#users.delete(userId);
    this.#users.set(userId, known);
    return known;
  }

  keep(userId: string, found: UsersEndpoints): void {
    this.#users.delete(userId);
    this.#users.set(userId, found);
    if (this.#users.size > MAX_USERS) this.#users.delete(this.#users.keys().next().value as string);
  }

  forget(): void {
    this.#users.clear();
    this.newest = "";
  }

  /**
   * Forget those of whom something has changed.
   *
   * @param known    the newest change when this was asked; answers may overtake each other
   * @param changes  as of `news`
   * @returns whether what was read together with these changes may be kept
   */
  catchUp(known: string, news: News, changes: readonly string[]): boolean {
    const isOvertaken = this.newest !== known;
    if (news === NEWS.unreadable) {
      this.forget();
      return false;
    }
    // An empty list may have been deleted, and is no sign that nothing has changed: it may be again.
    if (news === NEWS.none) return !isOvertaken && known !== "";
    if (news === NEWS.lost && !isOvertaken) this.#users.clear();
    const since = isOvertaken ? changes.indexOf(this.newest) : changes.length;
    if (since < 0) return false;
    for (const user of changes.slice(0, since).map(userOf)) {
      if (user === EVERYONE) this.#users.clear();
      else this.#users.delete(user);
    }
    this.newest = changes[0] as string;
    return this.newest !== "";
  }
}
