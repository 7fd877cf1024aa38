/**
 * Situations with names: those that isolation was built for. 256 slots, and time that costs what it costs: a worker's core, and
 * Valkey's.
 */
import { createChance } from "../support/chance.ts";
import { Simulation } from "./simulator.ts";
import { type ModelEndpoint, type ModelHost, type Outages, TIMEOUT_MS } from "./world.ts";

const SLOTS = 256;
const SECOND_MS = 1000;
const FOREVER: Outages = [[0, Number.MAX_SAFE_INTEGER]];

export interface Figures {
  readonly sent: number;
  readonly delivered: number;
  /** From the enqueueing to the request, ms. */
  readonly p50: number;
  readonly p99: number;
  /** When the last one was sent, ms from the start. */
  readonly lastAt: number;
}

/** What a scenario says of each kind of job. */
export type Report = (mark: string) => Figures;

interface Target {
  readonly endpoint: ModelEndpoint;
  readonly user: string;
  readonly mark: string;
}

export class Scenario {
  readonly simulation: Simulation;
  readonly #sent = new Map<string, number>();
  readonly #hosts = new Map<string, ModelHost>();
  readonly #endpoints = new Map<string, ModelEndpoint>();

  constructor(seed = 1) {
    this.simulation = new Simulation({
      chance: createChance(seed),
      workers: 1,
      slots: SLOTS,
      endpointSlots: SLOTS / 4,
      maxBytes: 256 * 1024 * 1024,
      capacity: 50_000,
      endpoints: 50_000,
      isCostly: true,
    });
  }

  /** An endpoint that answers after so long; `status` says what, with a Retry-After. */
  endpoint(
    origin: string,
    path: string,
    answerMs: number,
    status: (nowMs: number) => number = () => 200,
  ): ModelEndpoint {
    const isDead = answerMs >= TIMEOUT_MS;
    const host = this.#host(origin, {});
    const key = `https://${origin}/${path}`;
    const known = this.#endpoints.get(key);
    if (known !== undefined) return known;
    const made: ModelEndpoint = {
      key,
      host,
      users: [],
      outages: isDead ? FOREVER : [],
      durationMs: () => answerMs,
      answer: (nowMs) => ({ status: status(nowMs), retryAfter: "60" }),
    };
    this.#endpoints.set(key, made);
    return made;
  }

  /** Before its endpoints: the host, or its name servers, are away. */
  away(origin: string, { outages = [], nameOutages = [] }: Partial<Pick<ModelHost, "outages" | "nameOutages">>): void {
    this.#host(origin, { outages, nameOutages });
  }

  #host(origin: string, overrides: Partial<ModelHost>): ModelHost {
    const known = this.#hosts.get(origin);
    if (known !== undefined) return known;
    const host = { origin: `https://${origin}`, outages: [], nameOutages: [], isRefusing: false, ...overrides };
    this.#hosts.set(origin, host);
    return host;
  }

  /** So many jobs at once. */
  batch(atMs: number, count: number, target: (i: number) => Target): void {
    const each = 1_000; // as a backend's addBulk
    for (let from = 0; from < count; from += each) {
      const targets = Array.from({ length: Math.min(each, count - from) }, (_, i) => target(from + i));
      this.simulation.timeline.at(atMs + (from / each) * 30, () => this.#add(targets));
    }
  }

  /** So many jobs a second, one by one. */
  stream(perSecond: number, fromMs: number, toMs: number, target: (i: number) => Target): void {
    const { timeline } = this.simulation;
    const next = (i: number) => {
      const atMs = fromMs + (i * SECOND_MS) / perSecond;
      if (atMs >= toMs) return;
      timeline.at(atMs, () => {
        this.#add([target(i)]);
        next(i + 1);
      });
    };
    next(0);
  }

  /** The traffic that must not notice anything: 100 events a second to twenty quick endpoints. */
  healthy(toMs: number, perSecond = 100): void {
    this.stream(perSecond, 0, toMs, (i) => {
      const n = i % 20;
      return { endpoint: this.endpoint("healthy.example", `${n}`, 1), user: `healthy-${n}`, mark: "healthy" };
    });
  }

  /** Endpoints that nobody has seen before, each its own customer's. */
  newcomers(perSecond: number, fromMs: number, toMs: number, origin = (i: number) => `new-${i}.example`): void {
    this.stream(perSecond, fromMs, toMs, (i) => {
      return { endpoint: this.endpoint(origin(i), `new/${i}`, 1), user: `new-${i}`, mark: "new" };
    });
  }

  async run(toMs: number): Promise<Report> {
    await this.simulation.run(toMs);
    return (mark) => {
      const of = this.simulation.deliveries.filter(({ job }) => job.mark === mark);
      const latencies = of.map(({ latencyMs }) => latencyMs).sort((a, b) => a - b);
      const at = (share: number) =>
        latencies[Math.min(latencies.length - 1, Math.floor(latencies.length * share))] ?? Number.NaN;
      const lastAt = of.reduce((last, { job, latencyMs }) => Math.max(last, job.addedAt + latencyMs), 0);
      return { sent: this.#sent.get(mark) ?? 0, delivered: of.length, p50: at(0.5), p99: at(0.99), lastAt };
    };
  }

  #add(targets: readonly Target[]): void {
    for (const { mark } of targets) this.#sent.set(mark, (this.#sent.get(mark) ?? 0) + 1);
    this.simulation.add(targets);
  }
}
