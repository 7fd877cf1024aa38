/**
 * Start-time fair queueing as a function over lists: who yields, and in which order those come who did. What a script does in
 * Valkey must come to the same.
 */
import { type Job, moveToPrioritized, moveToWaiting } from "./queue-model.ts";

/** What is kept between two looks. */
export interface FairOrder {
  /** The next start tag of each flow that yielded: a user, or an endpoint that many users share. */
  readonly tags: Map<string, number>;
}

const LEAST = 64; // jobs that wait, before it is worth looking
const SHARE = 64; // a flow with more than one in so many of the jobs looked at yields
const KEPT = 4; // of its jobs keep their places
const GIVEN_BACK = 4; // jobs that come from `prioritized` at each look, however long the line is

interface Lines {
  readonly waiting: Job[]; // next last
  readonly prioritized: Job[]; // next last
  readonly order: FairOrder;
}

/** Look at the next jobs, and move those of users that dominate to `prioritized`. */
export function yieldPlaces({ waiting, prioritized, order }: Lines, size: number): { seen: number; moved: number } {
  const given = prioritized.splice(-GIVEN_BACK, GIVEN_BACK);
  const giveBack = () => {
    for (const job of given.toReversed()) moveToWaiting(job);
    waiting.push(...given);
  };
  if (waiting.length < LEAST) {
    giveBack();
    return { seen: 0, moved: 0 };
  }
  const piece = waiting.splice(-size, size).reverse(); // next first
  const users = countBy(piece, ({ user }) => user);
  const endpoints = countBy(piece, ({ endpoint }) => endpoint.key);
  const flowOf = ({ user, endpoint }: Job) => {
    if ((users.get(user) ?? 0) > piece.length / SHARE) return user;
    return (endpoints.get(endpoint.key) ?? 0) > piece.length / SHARE ? endpoint.key : undefined;
  };
  if (prioritized.length === 0) order.tags.clear();
  const now = prioritized.at(-1)?.tag ?? 0;
  const seen = new Map<string, number>();
  const kept: Job[] = [];
  const moved: Job[] = [];
  for (const job of piece) {
    const flow = flowOf(job);
    const place = (seen.get(flow ?? "") ?? 0) + 1;
    seen.set(flow ?? "", place);
    if (flow === undefined || place <= KEPT) {
      kept.push(job);
      continue;
    }
    const tag = Math.max(now, order.tags.get(flow) ?? 0);
    order.tags.set(flow, tag + 1);
    moveToPrioritized(job, tag);
    moved.push(job);
  }
  waiting.push(...kept.reverse());
  if (moved.length > 0) {
    prioritized.unshift(...moved.reverse());
    prioritized.sort((a, b) => b.tag - a.tag); // stable: of one tag, the one that came first is last
  }
  giveBack();
  return { seen: piece.length, moved: moved.length };
}

function countBy(jobs: readonly Job[], nameOf: (job: Job) => string): Map<string, number> {
  const counts = new Map<string, number>();
  for (const job of jobs) counts.set(nameOf(job), (counts.get(nameOf(job)) ?? 0) + 1);
  return counts;
}
