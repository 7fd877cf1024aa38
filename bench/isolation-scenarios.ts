/**
 * What the isolation bench measures: traffic that must not suffer, and what else is going on.
 */

/** Where an event goes, and whose it is. Hosts are loopback addresses, by index. */
export interface Target {
  readonly user: string;
  readonly host: number;
  readonly path: string;
  /** ms until the answer; `silent` never answers. */
  readonly answer: number | "silent";
}

/** The target of a stream's `index`-th event, 0-based. */
export type Aim = (index: number, random: () => number) => Target;

export interface Stream {
  readonly perSecond: number;
  readonly aim: Aim;
}

export interface Scenario {
  readonly name: string;
  /** What is measured; a stream of 0 a second has its events in the backlog. */
  readonly measured: Stream;
  readonly others?: Stream;
  /**
   * Jobs that wait when the measurement starts: the measured ones' share of them, and the rest where `aim` sends it. The
   * worker is warm then, and has been kept from them, or is only just started.
   */
  readonly backlog?: { readonly jobs: number; readonly share?: number; readonly aim?: Aim; readonly isCold?: boolean };
  /** The scenario with the same measured traffic undisturbed. */
  readonly alone?: string;
  /** Least time to measure, s. */
  readonly seconds?: number;
  /** How long the rest goes on before it counts, at least; s. */
  readonly warmUpSeconds?: number;
  /** How long what was sent may take; s. */
  readonly graceSeconds?: number;
  readonly isShort?: boolean;
}

/** How large and how slow: factors for numbers of jobs and endpoints, and for the time of an answer. */
export interface Scale {
  readonly size: number;
  readonly latency: number;
}

const HEALTHY_PER_SECOND = 115;
const HEALTHY_ENDPOINTS = 20;
const SLOW_MS = 2_000;
const FAR = 10_000; // hosts from here on are those of large groups,
const MAX_HOSTS = 50_000; // and there are addresses for so many

export function buildScenarios({ size, latency }: Scale): Scenario[] {
  const count = (full: number) => Math.max(1, Math.round(full * size));
  const ms = (full: number) => Math.round(full * latency);
  const aimAt =
    (answer: Target["answer"], name: string, endpoints = Number.POSITIVE_INFINITY, host = 0): Aim =>
    (index) => ({ user: `${name}_${index % endpoints}`, host, path: `${name}/${index % endpoints}`, answer });
  /** Each endpoint at a host of its own. */
  const spread = (aim: Aim, hosts: number): Aim => {
    return (index, random) => ({ ...aim(index, random), host: FAR + (index % Math.min(hosts, MAX_HOSTS)) });
  };
  const ofOne = (aim: Aim, users = 1): Aim => {
    return (index, random) => ({ ...aim(index, random), user: `busy_${index % users}` });
  };
  const healthy: Stream = { perSecond: HEALTHY_PER_SECOND, aim: aimAt(0, "healthy", HEALTHY_ENDPOINTS) };
  const fresh = (perSecond: number): Stream => ({ perSecond, aim: aimAt(0, "fresh") });
  const beside = (answer: Target["answer"], endpoints: number, perSecond = HEALTHY_PER_SECOND): Stream => {
    return { perSecond, aim: aimAt(answer, `${answer}`, endpoints, 1) };
  };
  const alone = "healthy alone";
  const backlogged = (name: string, aim: Aim, isCold: boolean): Scenario => {
    const backlog = { jobs: count(20_000), share: 0.1, aim, isCold };
    return {
      name,
      measured: healthy,
      backlog,
      alone: isCold ? "cold backlog, its tenth alone" : "backlog, its tenth alone",
    };
  };
  const burst = (name: string, jobs: number, aim: Aim): Scenario => {
    return { name, measured: healthy, backlog: { jobs: count(jobs), aim }, alone };
  };

  return [
    { name: alone, measured: healthy, isShort: true },
    { name: "beside 20 healthy", measured: healthy, others: beside(0, 20), alone },
    { name: "beside 20 dead", measured: healthy, others: beside("silent", 20), alone, isShort: true },
    { name: "beside 50 dead", measured: healthy, others: beside("silent", 50), alone },
    { name: "beside 20 slow", measured: healthy, others: beside(ms(SLOW_MS), 20), alone },
    { name: "new endpoints alone", measured: fresh(HEALTHY_PER_SECOND) },
    {
      name: "new endpoints beside 200 dead",
      measured: fresh(HEALTHY_PER_SECOND),
      others: beside("silent", 200),
      warmUpSeconds: 20, // until each of those has been tried
      alone: "new endpoints alone",
    },
    {
      name: "cold backlog, its tenth alone",
      measured: healthy,
      backlog: { jobs: count(2_000), share: 1, isCold: true },
    },
    backlogged("cold backlog, 90 % one dead", aimAt("silent", "dead", 1, 1), true),
    backlogged("cold backlog, 90 % one slow", aimAt(ms(SLOW_MS), "slow", 1, 1), true),
    backlogged("cold backlog, 90 % fifty dead", aimAt("silent", "dead", 50, 1), true),
    backlogged("cold backlog, 90 % fifty slow", aimAt(ms(SLOW_MS), "slow", 50, 1), true),
    { name: "backlog, its tenth alone", measured: healthy, backlog: { jobs: count(2_000), share: 1 } },
    backlogged("backlog, 90 % one dead", aimAt("silent", "dead", 1, 1), false),
    {
      name: "broadcast: new endpoints of one host, 200 ms",
      measured: { perSecond: 0, aim: aimAt(ms(200), "broadcast") },
      backlog: { jobs: count(20_000), share: 1 },
      graceSeconds: 120,
      isShort: true,
    },
    {
      name: "broadcast to hosts of their own, a tenth dead, healthy beside it",
      measured: healthy,
      backlog: {
        jobs: count(20_000),
        aim: (index, random) =>
          spread(aimAt(index % 10 === 0 ? "silent" : ms(200), "mixed"), count(20_000))(index, random),
      },
      alone,
    },
    {
      name: "population: endpoints at random, 200/s, 900 ms",
      measured: {
        perSecond: 200,
        aim: (_, random) => {
          const endpoint = Math.floor(random() * count(20_000));
          return { user: `usr_${endpoint}`, host: FAR + (endpoint % 1_000), path: `${endpoint}`, answer: ms(900) };
        },
      },
      isShort: true,
    },
    {
      name: "shared origin: one user's five paths are dead, another's is healthy",
      measured: { perSecond: 1 / 5, aim: aimAt(0, "quiet", 1, 2) },
      others: { perSecond: 1, aim: ofOne(aimAt("silent", "loud", 5, 2)) },
      seconds: 60,
    },
    {
      ...burst("busy: one user's jobs to paths of its own", 20_000, ofOne(aimAt(0, "busy", undefined, 1))),
      isShort: true,
    },
    burst("busy: the same, 300 ms answers", 20_000, ofOne(aimAt(ms(300), "busy", undefined, 1))),
    burst("busy: the same to dead hosts", 20_000, ofOne(spread(aimAt("silent", "busy"), count(20_000)))),
    burst("busy: three such users", 60_000, ofOne(aimAt(0, "busy", undefined, 1), 3)),
    burst("busy: one user's jobs to 500 paths", 60_000, ofOne(aimAt(0, "busy", 500, 1))),
    {
      name: "a host silent, a path per event, beside new endpoints",
      measured: fresh(20),
      others: { perSecond: 100, aim: aimAt("silent", "provider", undefined, 1) },
    },
    {
      name: "1,000 dead hosts at 300/s, beside new endpoints",
      measured: fresh(30),
      others: { perSecond: 300, aim: spread(aimAt("silent", "dead", count(1_000)), count(1_000)) },
    },
    {
      name: "dead URLs by the thousand, 600/s",
      measured: healthy,
      others: { perSecond: 600, aim: spread(aimAt("silent", "url"), 1_000) },
      alone,
    },
    {
      name: "200 endpoints that take 5 s, 400/s",
      measured: { perSecond: 400, aim: aimAt(ms(5_000), "slow", 200, 1) },
      others: healthy,
      graceSeconds: 15,
    },
    {
      name: "healthy beside 200 endpoints that take 5 s",
      measured: healthy,
      others: { perSecond: 400, aim: aimAt(ms(5_000), "slow", 200, 1) },
      alone,
    },
    {
      ...burst("hot: one endpoint, 500 users", 10_000, (index) => {
        return { user: `usr_${index % 500}`, host: 1, path: "hot", answer: ms(10) };
      }),
      isShort: true,
    },
  ];
}

/** In [0, 1), the same for the same seed (mulberry32). */
export function createRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let bits = Math.imul(state ^ (state >>> 15), state | 1);
    bits ^= bits + Math.imul(bits ^ (bits >>> 7), bits | 61);
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
  };
}
