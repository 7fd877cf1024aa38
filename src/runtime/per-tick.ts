/**
 * Batches everything added during one event-loop turn into a single call.
 */

/** Items added during one event-loop turn. */
export interface PerTurn<T> {
  add(item: T): void;
  /** Hand the items over now instead of at the end of the turn. */
  flush(): void;
}

/**
 * Collect items during one event-loop turn and hand them over at its end. A busy worker receives dozens of responses per
 * turn, and a system call for each would cost more than everything else.
 *
 * @param handOn  never called with an empty array
 */
export function perTurn<T>(handOn: (items: T[]) => void): PerTurn<T> {
  let items: T[] = [];
  const flush = (): void => {
    if (items.length === 0) return;
    const all = items;
    items = [];
    handOn(all);
  };
  return {
    add(item) {
      if (items.push(item) === 1) setImmediate(flush);
    },
    flush,
  };
}

/**
 * Like {@link perTurn}, but hands items over only after sockets have been polled since: anything that had arrived when an
 * item was added has been processed by then. Bun polls its sockets between the end of one turn and the next.
 *
 * @param handOn  never called with an empty array
 */
export function perPoll<T>(handOn: (items: T[]) => void): Pick<PerTurn<T>, "add"> {
  return perTurn((items: T[]) => void setImmediate(handOn, items));
}
