/**
 * What one look at a queue does (src/isolation/fair-queue-script.ts), as a pure function over lists: the script must come to
 * the same, and the simulator runs on it.
 */
import {
  GREEDY_SHARE,
  KEPT_SHARE,
  LONG_QUEUE,
  MAX_BYTES,
  MAX_NEWEST,
  MIN_WAITING,
  NEWEST_SHARE,
  SLACK,
  SLACK_SHARE,
  WORTHWHILE_SHARE,
} from "../../src/isolation/fair-queue-script.ts";
import { PRIORITY_SCORE } from "../../src/queue/layout.ts";

/** A queue as a look finds it. */
export interface Line {
  /** Ids; the next job last. */
  readonly wait: readonly string[];
  /** Ids and scores, a producer's priorities too. */
  readonly prioritized: ReadonlyMap<string, number>;
  /** The next start tag of each flow that yields. */
  readonly tags: ReadonlyMap<string, number>;
}

export interface Fields {
  readonly user?: string | undefined;
  readonly url?: string | undefined;
  /** Of the job's data; they count against the budget. */
  readonly bytes?: number;
}

export interface Ask {
  readonly size: number;
  /** The last job that was looked at and left: those before it are skipped. */
  readonly behind?: string;
  readonly giveBack?: number;
  readonly troubled?: readonly string[];
}

export interface Looked extends Line {
  readonly seen: number;
  readonly moved: number;
  /** Those it left at the head. */
  readonly left: number;
  /** Whether it is worth looking further, */
  readonly goesOn: boolean;
  /** and behind which job. */
  readonly last: string;
}

/** Look at a queue once; how it is then. */
export function lookAt(
  line: Line,
  fieldsOf: (id: string) => Fields,
  { size, behind = "", giveBack = 0, troubled = [] }: Ask,
): Looked {
  const { wait } = line;
  if (wait.length < MIN_WAITING) return { ...line, seen: 0, moved: 0, left: 0, goesOn: false, last: "" };
  const end = wait.includes(behind) ? wait.lastIndexOf(behind) : wait.length;
  const pieceSize = Math.min(end, size);
  const most = pieceSize < end ? Math.min(MAX_NEWEST, Math.floor(pieceSize / NEWEST_SHARE)) : 0;
  const newest = withinBudget(wait.slice(0, most), fieldsOf, MAX_BYTES / NEWEST_SHARE).reverse();
  const candidates = wait.slice(end - (pieceSize - most), end).reverse();
  const oldest = withinBudget(candidates, fieldsOf, MAX_BYTES - MAX_BYTES / NEWEST_SHARE);
  const seen = oldest.length + newest.length;

  const first = Math.min(PRIORITY_SCORE, ...line.prioritized.values());
  const [now, tags] = first < PRIORITY_SCORE ? [first, new Map(line.tags)] : [0, new Map<string, number>()];
  const flowOf = flowsOf([...oldest, ...newest], fieldsOf, (flow) => (tags.get(flow) ?? 0) > now, new Set(troubled));

  const kept = wait.slice(end).reverse();
  const moved = new Map<string, number>();
  const met = new Map<string, number>();
  const next = new Map<string, number>();
  for (const id of oldest) {
    const flow = flowOf(id);
    const place = (met.get(flow ?? "") ?? 0) + 1;
    met.set(flow ?? "", place);
    const isTroubled = troubled.includes(fieldsOf(id).user ?? "");
    if (flow === undefined || (!isTroubled && place <= Math.ceil(seen / KEPT_SHARE))) {
      kept.push(id);
      continue;
    }
    const tag = Math.min(next.get(flow) ?? Math.max(now, tags.get(flow) ?? 0), PRIORITY_SCORE - 1);
    next.set(flow, tag + 1);
    moved.set(id, tag);
  }
  const goesOn = moved.size > 0 && moved.size * WORTHWHILE_SHARE >= seen && seen < end;

  const passes = moved.size * 2 > oldest.length || (moved.size === 0 && wait.length > LONG_QUEUE);
  const ahead = passes ? newest.filter((id) => flowOf(id) === undefined) : [];
  const staying = passes ? newest.filter((id) => flowOf(id) !== undefined) : newest;
  const middle = wait.slice(newest.length, end - oldest.length);
  const waiting = [...staying.toReversed(), ...middle, ...[...kept, ...ahead].reverse()];
  const prioritized = new Map([...line.prioritized, ...moved]);
  const given = goesOn ? [] : inOrder(prioritized).slice(0, giveBack);
  for (const id of given) prioritized.delete(id);
  const isKept = first < PRIORITY_SCORE || moved.size > 0;
  return {
    wait: [...waiting, ...given.reverse()],
    prioritized,
    tags: isKept ? new Map([...tags, ...next]) : new Map(),
    seen,
    moved: moved.size,
    left: seen - moved.size - staying.length,
    goesOn,
    last: ahead.at(-1) ?? kept.at(-1) ?? "",
  };
}

/** Those of `prioritized` that have no priority of their own, the next one first: as a sorted set has them. */
export function inOrder(prioritized: ReadonlyMap<string, number>): string[] {
  const ours = [...prioritized].filter(([, score]) => score < PRIORITY_SCORE);
  return ours.sort(([a, x], [b, y]) => x - y || (a < b ? -1 : 1)).map(([id]) => id);
}

function withinBudget(ids: readonly string[], fieldsOf: (id: string) => Fields, budget: number): string[] {
  let left = budget;
  const end = ids.findIndex((id) => {
    const isOver = left <= 0;
    left -= fieldsOf(id).bytes ?? 0;
    return isOver;
  });
  return ids.slice(0, end === -1 ? ids.length : end);
}

/** The flow that a job yields with; undefined for the others. */
function flowsOf(
  ids: readonly string[],
  fieldsOf: (id: string) => Fields,
  isPending: (flow: string) => boolean,
  troubled: ReadonlySet<string>,
): (id: string) => string | undefined {
  const users = greedy(ids.map((id) => fieldsOf(id).user), false); // biome-ignore format: as below
  const userYields = (user?: string) =>
    user !== undefined && (users.has(user) || troubled.has(user) || isPending(`u:${user}`));
  const urls = greedy(ids.map((id) => (userYields(fieldsOf(id).user) ? undefined : fieldsOf(id).url)), true); // biome-ignore format: as above
  return (id) => {
    const { user, url } = fieldsOf(id);
    if (userYields(user)) return `u:${user}`;
    return url !== undefined && (urls.has(url) || isPending(`e:${url}`)) ? `e:${url}` : undefined;
  };
}

/** The names that have too much. One that has everything has too much if it may not be alone. */
function greedy(names: readonly (string | undefined)[], mayBeAlone: boolean): Set<string> {
  const counts = new Map<string, number>();
  for (const name of names) if (name !== undefined) counts.set(name, (counts.get(name) ?? 0) + 1);
  const most = Math.max(0, ...counts.values());
  const least = Math.min(names.length, ...counts.values());
  const isUnfair = most > 4 * least + Math.max(SLACK, names.length / SLACK_SHARE);
  if (!isUnfair && (mayBeAlone || most < names.length)) return new Set();
  return new Set([...counts].filter(([, count]) => count * GREEDY_SHARE > names.length).map(([name]) => name));
}
