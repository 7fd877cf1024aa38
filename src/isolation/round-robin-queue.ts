/**
 * The jobs that wait in the process for one endpoint. Users take turns (round-robin), so that nobody can hold up another user by
 * enqueueing to the same URL. Each user's own jobs are first in, first out, those that have waited before ahead of those that come for the
 * first time: otherwise new jobs would take the room that a parked job comes back for. Pure.
 */

export interface InQueue {
  readonly user: string;
  /** Whether it was parked or attempted before. */
  readonly hasWaited: boolean;
}

export class RoundRobinQueue<W extends InQueue> {
  readonly #byUser = new Map<string, W[]>(); // in the order of the users' turns
  #size = 0;

  get size(): number {
    return this.#size;
  }

  /** Whether a user has jobs here. */
  has(user: string): boolean {
    return this.#byUser.has(user);
  }

  /** At most how many jobs are admitted until another one is, that one included. */
  turnsUntil(job: InQueue): number {
    return (this.#ahead(job) + 1) * (this.#byUser.size + (this.has(job.user) ? 0 : 1));
  }

  /** How many of the user's jobs go ahead of another one. */
  #ahead({ user, hasWaited }: InQueue): number {
    const own = this.#byUser.get(user) ?? [];
    return hasWaited ? own.findLastIndex((waiter) => waiter.hasWaited) + 1 : own.length;
  }

  /** The first job of each user, in the order of their turns. Jobs may be removed while the caller iterates. */
  heads(): W[] {
    return [...this.#byUser.values()].map(([first]) => first as W);
  }

  add(waiter: W): void {
    this.#size += 1;
    const own = this.#byUser.get(waiter.user);
    if (own === undefined) this.#byUser.set(waiter.user, [waiter]);
    else own.splice(this.#ahead(waiter), 0, waiter);
  }

  /** Remove a job. If it was admitted, its user moves to the end of the rotation. */
  remove(waiter: W, wasAdmitted: boolean): void {
    const own = this.#byUser.get(waiter.user) ?? [];
    own.splice(own.indexOf(waiter), 1);
    this.#size -= 1;
    if (wasAdmitted || own.length === 0) this.#byUser.delete(waiter.user);
    if (own.length > 0) this.#byUser.set(waiter.user, own);
  }
}
