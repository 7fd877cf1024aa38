/**
 * Holds: hosts, endpoints and users whose events an operator keeps from being attempted for a while. Pure.
 *
 * A held event waits without using an attempt, and its age stands still meanwhile: the time during which it was held is
 * subtracted from its age. That takes no bookkeeping per event, since holds are remembered for as long as the age of an event may
 * depend on them.
 */

/** What a hold is about. */
export type HoldKind = "host" | "url" | "user";

/** One hold, current or over. */
export interface Hold {
  /** Identifies it to operators: `h482913`. */
  readonly id: string;
  readonly kind: HoldKind;
  /**
   * - `host`  `hooks.example.com`, with the port unless it is the scheme's default; an IPv6 address in brackets
   * - `url`   an `endpointKey`; without a query, it holds the endpoint with any query
   * - `user`  a user's id
   */
  readonly target: string;
  /** Epoch ms. */
  readonly from: number;
  /** When it ends, or ended because it was released, epoch ms. */
  readonly until: number;
  /** What the operator wrote. */
  readonly reason?: string | undefined;
  /** Who holds it, as far as that is known. */
  readonly by?: string | undefined;
}

/** What decides whether a hold is about an event. */
export interface HeldParty {
  /** Its `endpointKey`. */
  readonly endpoint: string;
  /** The URL's origin. */
  readonly host: string;
  readonly user: string;
}

type Interval = Pick<Hold, "from" | "until">;

const SLACK_MS = 60 * 1000; // 1 min, since clocks differ
const NONE: readonly Hold[] = [];

/** A worker's holds, looked up in memory. Without any, {@link Holds.isEmpty} is all that a delivery asks. */
export class Holds {
  #all: readonly Hold[] = NONE;
  readonly #places = new Map<string, readonly Hold[]>();
  readonly #users = new Map<string, Hold[]>();
  readonly #origins = new Map<string, Hold[]>();
  readonly #urls = new Map<string, Hold[]>();

  /** Whether there are neither current holds nor ended ones that still count. */
  get isEmpty(): boolean {
    return this.#all.length === 0;
  }

  get all(): readonly Hold[] {
    return this.#all;
  }

  /** How many hosts, endpoints and users are held. */
  countCurrent(nowMs: number): number {
    return joinCurrent(this.#all, nowMs).length;
  }

  /** Replace all holds that are kept in a place: those of several places count together. */
  replace(holds: readonly Hold[], place = ""): void {
    this.#places.set(place, holds);
    this.#all = [...this.#places.values()].flat();
    for (const map of [this.#users, this.#origins, this.#urls]) map.clear();
    for (const hold of this.#all) {
      if (hold.kind === "user") add(this.#users, hold.target, hold);
      else if (hold.kind === "url") add(this.#urls, hold.target, hold);
      else for (const origin of originsOf(hold.target)) add(this.#origins, origin, hold);
    }
  }

  /**
   * Until when an event is held.
   *
   * @param nowMs  epoch ms
   * @returns epoch ms; 0 when it is not held
   */
  until(party: HeldParty, nowMs: number): number {
    return this.#about(party).reduce((latest, { until }) => (until > nowMs ? Math.max(latest, until) : latest), 0);
  }

  /**
   * For how long an event was held within a time span, in ms.
   *
   * @param fromMs  epoch ms
   * @param toMs    epoch ms
   * @param pauses  of its endpoint, which count like holds
   */
  heldMs(party: HeldParty, fromMs: number, toMs: number, pauses: readonly Interval[] = NONE): number {
    if (pauses.length > 0) return coveredMs([...this.#about(party), ...pauses], fromMs, toMs);
    return this.isEmpty ? 0 : coveredMs(this.#about(party), fromMs, toMs);
  }

  #about({ endpoint, host, user }: HeldParty): readonly Hold[] {
    const held = [this.#users.get(user), this.#origins.get(host), this.#urls.get(endpoint)];
    const query = this.#urls.size > 0 ? endpoint.indexOf("?") : -1;
    if (query >= 0) held.push(this.#urls.get(endpoint.slice(0, query)));
    const found = held.filter((holds) => holds !== undefined);
    return found.length === 0 ? NONE : found.flat();
  }
}

function add(map: Map<string, Hold[]>, key: string, hold: Hold): void {
  const known = map.get(key);
  if (known === undefined) map.set(key, [hold]);
  else known.push(hold);
}

/** A host's origins, one for each scheme; without a port, at the scheme's default one. */
function originsOf(host: string): string[] {
  return ["http", "https"].map((scheme) => new URL(`${scheme}://${host}`).origin);
}

/** How much of a time span is within at least one of the intervals, in ms. */
export function coveredMs(intervals: readonly Interval[], fromMs: number, toMs: number): number {
  const inside = intervals
    .map(({ from, until }) => ({ from: Math.max(from, fromMs), until: Math.min(until, toMs) }))
    .filter(({ from, until }) => until > from)
    .sort((a, b) => a.from - b.from);
  let [total, counted] = [0, fromMs];
  for (const { from, until } of inside) {
    total += Math.max(0, until - Math.max(from, counted));
    counted = Math.max(counted, until);
  }
  return total;
}

/**
 * The holds that are over and no longer count: every event that was due before their end is too old by now, even if it was held by
 * all others since.
 *
 * @param all  also those that are kept elsewhere
 */
export function findSpent(holds: readonly Hold[], maxAgeMs: number, nowMs: number, all = holds): Hold[] {
  return holds.filter(
    ({ until }) => until < nowMs && nowMs - until - coveredMs(all, until, nowMs) > maxAgeMs + SLACK_MS,
  );
}

/** Whether two holds are about the same. */
export const isSameTarget = (one: Pick<Hold, "kind" | "target">, other: Pick<Hold, "kind" | "target">): boolean =>
  one.kind === other.kind && one.target === other.target;

/** What is held now: one hold for each target, which two places may hold, for as long as either does. */
export function joinCurrent(holds: readonly Hold[], nowMs: number): Hold[] {
  const joined = new Map<string, Hold>();
  for (const hold of holds.filter(({ until }) => until > nowMs)) {
    const name = `${hold.kind} ${hold.target}`;
    const { from, until } = joined.get(name) ?? hold;
    const span = { from: Math.min(from, hold.from), until: Math.max(until, hold.until) };
    joined.set(name, { ...(joined.get(name) ?? hold), ...span });
  }
  return [...joined.values()];
}

/** A hold's target, to be shown: a URL's query may contain a token. */
export function nameHeld({ kind, target }: Pick<Hold, "kind" | "target">): string {
  return kind === "url" ? target.replace(/\?.*$/s, "?…") : target;
}
