/**
 * The jobs that wait in the process for one endpoint. Users take turns (round-robin), so that nobody can hold up another user by
 * enqueueing to the same URL; each user's own jobs are first in, first out. Pure.
 */
export class WaitingLine<W extends { readonly user: string }> {
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

  /** The first job of each user, in the order of their turns. Jobs may leave while the caller iterates. */
  heads(): W[] {
    return [...this.#byUser.values()].map(([first]) => first as W);
  }

  enter(waiter: W): void {
    this.#size += 1;
    const line = this.#byUser.get(waiter.user);
    if (line === undefined) this.#byUser.set(waiter.user, [waiter]);
    else line.push(waiter);
  }

  /** Remove a job. If it was admitted, its user moves to the end of the rotation. */
  leave(waiter: W, wasAdmitted: boolean): void {
    const line = this.#byUser.get(waiter.user) ?? [];
    line.splice(line.indexOf(waiter), 1);
    this.#size -= 1;
    if (wasAdmitted || line.length === 0) this.#byUser.delete(waiter.user);
    if (line.length > 0) this.#byUser.set(waiter.user, line);
  }
}
