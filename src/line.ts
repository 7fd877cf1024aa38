/**
 * A line of jobs that wait for an endpoint, and the turns they get. Pure.
 */
import type { Span } from "./parked-turns.ts";

/** When those who wait have their turns: one every `spacingMs`, epoch ms. */
export interface Turns {
  /** The first turn. */
  readonly from: number;
  readonly spacingMs: number;
  /** A turn after this one is a guess: such turns are spread over the second half of the time from `startAt` to here. */
  readonly horizonAt: number;
  readonly startAt: number;
}

/** The turns of a line as it stands. */
export interface Line extends Turns {
  /** Whose it is: lines of one owner are the same. */
  readonly owner: object;
  /** So many took them: the line is as much longer, though its endpoint may be in another line by now. */
  joined(count: number): void;
}

const MAX_JITTER_MS = 1000; // 1 s: whoever is to probe an endpoint comes when the probe is due

/** The same lines, for those who join them together: where they are one, its turns are dealt out in rounds. */
export function dealOut(lines: readonly Line[]): Line[] {
  const byOwner = Map.groupBy(lines, ({ owner }) => owner);
  return lines.map((line) => {
    const same = byOwner.get(line.owner) ?? [line];
    const [size, place] = [same.length, same.indexOf(line)];
    const joined = (count: number): void => line.joined((count - 1) * size + place + 1);
    return { ...line, from: line.from + place * line.spacingMs, spacingMs: size * line.spacingMs, joined };
  });
}

/** The first and the last of so many turns of a line, or what lies beyond them, epoch ms: turns are whole milliseconds. */
export function turnsOf({ from, spacingMs, startAt, horizonAt }: Turns, count: number): Span {
  const last = from + (count - 1) * spacingMs;
  if (last <= horizonAt) return { first: Math.floor(from), last };
  return { first: Math.floor(Math.min(from, (startAt + horizonAt) / 2)), last: horizonAt };
}

/** The first turn of a line, give or take a little, epoch ms. */
export function firstTurn({ from, spacingMs, startAt, horizonAt }: Turns, random: () => number): number {
  const turn = from + random() * Math.min(spacingMs, MAX_JITTER_MS);
  return Math.ceil(turn <= horizonAt ? turn : startAt + (horizonAt - startAt) * (0.5 + 0.5 * random()));
}
