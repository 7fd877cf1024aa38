/**
 * What a worker remembers of a shard's endpoints, and as of which of the shard's changes. Pure.
 */
import { EVERYONE, userOf } from "../registry/changes.ts";
import type { StoredEndpoint } from "../registry/endpoint.ts";

/** Of one of the two generations. A user takes some 3 KB, and as much again as is stored. */
const MAX_USERS = 5_000;
const MAX_LENGTH = 8 * 1024 * 1024; // characters: ten users with as much as a user may have

/** All endpoints of a user. */
export interface UsersEndpoints {
  /** Empty for a user who never had an endpoint. */
  readonly version: string;
  /** A deleted endpoint is remembered for a while. */
  readonly endpoints: ReadonlyMap<string, StoredEndpoint | "deleted">;
  /** Of what is stored of them, in characters. */
  readonly length: number;
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
  /** @param changed  called with the users, or {@link EVERYONE}, of whom something has changed */
  constructor(private readonly changed: (users: readonly string[]) => void = () => {}) {}

  /** Empty while the shard has no changes. */
  newest = "";
  // Two generations: users who are asked for while they are in the older one are moved. Cheaper than keeping their order at each.
  #recent = new Map<string, UsersEndpoints>();
  #older = new Map<string, UsersEndpoints>();
  #length = 0; // of all that was added to the recent one

  get isEmpty(): boolean {
    return this.#recent.size === 0 && this.#older.size === 0;
  }

  recall(userId: string): UsersEndpoints | undefined {
    const recent = this.#recent.get(userId);
    if (recent !== undefined) return recent;
    const older = this.#older.get(userId);
    if (older !== undefined) this.keep(userId, older);
    return older;
  }

  keep(userId: string, found: UsersEndpoints): void {
    if (this.#recent.size >= MAX_USERS || this.#length + found.length > MAX_LENGTH) {
      this.#older = this.#recent;
      this.#recent = new Map();
      this.#length = 0;
    }
    this.#older.delete(userId);
    this.#recent.set(userId, found);
    this.#length += found.length;
  }

  forget(): void {
    this.#clear();
    this.newest = "";
  }

  #clear(): void {
    this.#recent.clear();
    this.#older.clear();
    this.#length = 0;
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
    if (news === NEWS.lost && !isOvertaken) this.#clear();
    const since = isOvertaken ? changes.indexOf(this.newest) : changes.length;
    if (since < 0) return false;
    const users = changes.slice(0, since).map(userOf);
    for (const user of users) {
      if (user === EVERYONE) this.#clear();
      this.#recent.delete(user);
      this.#older.delete(user);
    }
    this.changed(news === NEWS.lost ? [EVERYONE] : users);
    this.newest = changes[0] as string;
    return this.newest !== "";
  }
}
