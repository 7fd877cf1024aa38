/**
 * Work that is cheaper together.
 */

/**
 * Collect what is given during one turn of the event loop, and hand it on at the turn's end. A busy worker hears of dozens
 * of answers at once, and to ask the system for each of them costs more than all the rest of it.
 */
export function perTurn<T>(handOn: (items: T[]) => void): (item: T) => void {
  let items: T[] = [];
  const end = (): void => {
    const all = items;
    items = [];
    handOn(all);
  };
  return (item) => {
    if (items.push(item) === 1) setImmediate(end);
  };
}
