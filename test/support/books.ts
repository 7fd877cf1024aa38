/**
 * The books of a crash or an outage: what the backend enqueued, what arrived, what was logged, and what does not add up.
 */
import { expect } from "bun:test";
import type { ReceivedRequest } from "../../src/dev/receiver.ts";
import type { Attempt, AttemptLog } from "../../src/log/attempts.ts";

/** One request, as the receiver saw it. */
export interface Arrival {
  readonly event: string;
  readonly delivery: string;
  /** Epoch ms. */
  readonly at: number;
  /** Whether its answer went out. Undefined while it is open. */
  isAnswered?: boolean;
  /** Epoch ms. Undefined while it is open. */
  endedAt?: number;
  /** Another attempt of the same event was open at that moment. */
  readonly isOverlapping: boolean;
}

/** The books, closed. Each list is empty, each number is 0, when nothing is wrong. */
export interface Balance {
  /** Enqueued (the backend had Valkey's word for it), and never answered with 200. */
  readonly lost: string[];
  /** Arrived more than once, answered or not: all but the last arrival. */
  readonly repeated: Arrival[];
  /** Arrived while another attempt of the same event was open. */
  readonly overlapping: Arrival[];
  /** Answered, and not in the user's log. */
  readonly unlogged: Arrival[];
  /** Events without a logged delivery. */
  readonly undocumented: string[];
  /** Log lines of deliveries that the receiver does not know. */
  readonly invented: Attempt[];
  /** Log lines of attempts that were charged, or failed. */
  readonly charged: Attempt[];
  /** Jobs that ended as failed. */
  readonly failed: number;
}

export interface Books {
  readonly arrivals: readonly Arrival[];
  /** Enqueued events, by id: epoch ms at which Valkey had said yes. */
  readonly enqueued: ReadonlyMap<string, number>;
  /** A new event: whose it is, one of its own users unless told. */
  nextUser(user?: string): string;
  wasEnqueued(event: string): void;
  arrive(request: ReceivedRequest): Arrival;
  /** A request to an endpoint that is dead for now: no arrival, and what its attempts cost is right. */
  refuse(request: ReceivedRequest): void;
  close(): Promise<Balance>;
}

const EVENTS_PER_USER = 2; // a log keeps 10 entries: five attempts of each

/** @param countFailed  how many jobs ended as failed */
export function createBooks(log: Pick<AttemptLog, "list">, countFailed: () => Promise<number>): Books {
  const arrivals: Arrival[] = [];
  const open = new Map<string, number>();
  const enqueued = new Map<string, number>();
  const users: string[] = [];
  const refused = { events: new Set<string>(), deliveries: new Set<string>() };
  let made = 0;
  return {
    arrivals,
    enqueued,
    nextUser(user) {
      if (user !== undefined) {
        if (!users.includes(user)) users.push(user);
        return user;
      }
      if (made++ % EVENTS_PER_USER === 0) users.push(`usr_${users.length}`);
      return users.at(-1) as string;
    },
    wasEnqueued: (event) => enqueued.set(event, Date.now()),
    arrive(request) {
      const event = String(request.headers["webhook-id"]);
      const arrival: Arrival = {
        event,
        delivery: String(request.headers["x-fluxdrop-delivery"]),
        at: request.receivedAt,
        isOverlapping: (open.get(event) ?? 0) > 0,
      };
      arrivals.push(arrival);
      open.set(event, (open.get(event) ?? 0) + 1);
      request.ended.then((how) => {
        arrival.endedAt = Date.now();
        arrival.isAnswered = how === "answered";
        open.set(event, (open.get(event) ?? 0) - 1);
      });
      return arrival;
    },
    refuse({ headers }) {
      refused.events.add(String(headers["webhook-id"]));
      refused.deliveries.add(String(headers["x-fluxdrop-delivery"]));
    },
    async close() {
      const lines = (await Promise.all(users.map((user) => log.list(user, Date.now())))).flat();
      const logged = new Set(lines.map(({ delivery }) => delivery));
      const documented = new Set(lines.filter(({ success }) => success).map(({ id }) => id));
      const known = new Set(arrivals.map(({ delivery }) => delivery));
      const answered = arrivals.filter(({ isAnswered }) => isAnswered);
      const delivered = new Set(answered.map(({ event }) => event));
      const last = new Map(arrivals.map((arrival) => [arrival.event, arrival]));
      return {
        lost: [...enqueued.keys()].filter((event) => !delivered.has(event)),
        repeated: arrivals.filter((arrival) => last.get(arrival.event) !== arrival),
        overlapping: arrivals.filter(({ isOverlapping }) => isOverlapping),
        unlogged: answered.filter(({ delivery }) => !logged.has(delivery)),
        undocumented: [...enqueued.keys()].filter((event) => !documented.has(event)),
        invented: lines.filter(({ delivery }) => !known.has(delivery) && !refused.deliveries.has(delivery)),
        charged: lines.filter(({ id, attempt, success }) => (attempt !== 1 || !success) && !refused.events.has(id)),
        failed: await countFailed(),
      };
    },
  };
}

/** Nothing is wrong in those of the books that are given. */
export function expectFlawless(balance: Partial<Balance>): void {
  const flawless = Object.fromEntries(
    Object.entries(balance).map(([name, found]) => [name, typeof found === "number" ? 0 : []]),
  );
  expect({ ...balance }).toEqual(flawless as never);
}

/** A time in which something was wrong, epoch ms. */
export interface Harm {
  readonly from: number;
  readonly to: number;
}

/** The arrivals that no harm explains: they came neither during one nor so shortly before. */
export function unexplained(arrivals: readonly Arrival[], harms: readonly Harm[], beforeMs: number): Arrival[] {
  return arrivals.filter(({ at }) => !harms.some(({ from, to }) => at > from - beforeMs && at < to));
}
