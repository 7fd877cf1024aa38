/**
 * The jobs that wait in the process for one endpoint. Users take turns (round-robin), so that nobody can hold up another user by
 * enqueueing to the same URL; each user's own jobs are first in, first out. Pure.
 */
export class RoundRobinQueue<W extends { readonly user: string }> {
  readonly #byUser = new Map<string, W[]>(); // in the order of the users' turns
  #size = 0;

  get size(): number {
    return this.#size;
  }

  /** How many users have jobs here. */
  get users(): number {
    return this.#byUser.size;
  }

  /** How many jobs of a user wait. */
  sizeOf(user: string): number {
    return this.#byUser.get(user)?.length ?? 0;
  }

  /** The first job of each user, in the order of their turns. Jobs may be removed while the caller iterates. */
  heads(): W[] {
    return [...this.#byUser.values()].map(([first]) => first as W);
  }

  add(waiter: W): void {
    this.#size += 1;
    const own = this.#byUser.get(waiter.user);
    if (own === undefined) this.#byUser.set(waiter.user, [waiter]);
    else own.push(waiter);
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
