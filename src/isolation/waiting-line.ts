/**
 * Jobs that wait in the process for one endpoint. Its users take turns, so that nobody fills another user's line by
 * enqueueing to his URL; one user's jobs go in the order in which they came. Pure.
 */
export class WaitingLine<W extends { readonly user: string }> {
  readonly #byUser = new Map<string, W[]>(); // the user whose turn it is first
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

  /** The first job of each user, in the order of their turns; they may leave meanwhile. */
  heads(): W[] {
    return [...this.#byUser.values()].map(([first]) => first as W);
  }

  enter(waiter: W): void {
    this.#size += 1;
    const line = this.#byUser.get(waiter.user);
    if (line === undefined) this.#byUser.set(waiter.user, [waiter]);
    else line.push(waiter);
  }

  /** A job leaves; if it may go, all other users have their turn before its own has the next. */
  leave(waiter: W, mayGo: boolean): void {
    const line = this.#byUser.get(waiter.user) ?? [];
    line.splice(line.indexOf(waiter), 1);
    this.#size -= 1;
    if (mayGo || line.length === 0) this.#byUser.delete(waiter.user);
    if (line.length > 0) this.#byUser.set(waiter.user, line);
  }
}
