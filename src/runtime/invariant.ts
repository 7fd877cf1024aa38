/** Fails when constants do not fit together. For modules to call as they load: the mistake then shows in the first test. */
export function invariant(holds: boolean, what: string): void {
  if (!holds) throw new Error(`expected ${what}`);
}
