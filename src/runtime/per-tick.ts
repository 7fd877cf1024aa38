/**
 * Work that is cheaper together.
 */

/** What was given during one turn of the event loop, until its end. */
export interface PerTurn<T> {
  add(item: T): void;
  /** Hand on what there is now, before the turn's end. */
  flush(): void;
}

/**
 * Collect what is given during one turn of the event loop, and hand it on at the turn's end. A busy worker hears of dozens
 * of answers at once, and to ask the system for each of them costs more than all the rest of it.
 *
 * @param handOn  never called with nothing
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
 * Collect as {@link perTurn} does, and hand on once every socket has been looked at since: whatever had come by the time an
 * item was given has been heard by then. Bun looks at its sockets between one turn's end and the next, not before the first.
 *
 * @param handOn  never called with nothing
 */
export function perPoll<T>(handOn: (items: T[]) => void): Pick<PerTurn<T>, "add"> {
  return perTurn((items: T[]) => void setImmediate(handOn, items));
}
