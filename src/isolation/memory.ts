/**
 * The endpoints that a worker remembers. What is forgotten first is idle and has never answered, longest unused first: a
 * flood of dead URLs pushes out endpoints that are known to be well only where nothing else is remembered. Pure.
 */
import { type Endpoint, Host } from "./endpoint.ts";

const MAX_LOOKS = 100; // at busy endpoints, to find an idle one

export class Memory<E extends Endpoint> {
  readonly #hosts = new Map<string, Host>();
  readonly #unanswered = new Map<string, E>(); // longest unused first
  readonly #answered = new Map<string, E>();

  /**
   * @param capacity   endpoints; a kilobyte each
   * @param forgotten  called with each endpoint that is forgotten, and with its host when that was the last of it
   */
  constructor(
    private readonly capacity: number,
    private readonly make: (key: string, host: Host) => E,
    private readonly forgotten: (endpoint: E, host: Host | undefined) => void,
  ) {}

  get size(): number {
    return this.#unanswered.size + this.#answered.size;
  }

  recall(key: string, origin: string): E {
    for (const part of [this.#answered, this.#unanswered]) {
      const known = part.get(key);
      if (known === undefined) continue;
      part.delete(key);
      part.set(key, known);
      return known;
    }
    const host = this.#hosts.get(origin) ?? new Host(origin);
    const endpoint = this.make(key, host);
    this.#hosts.set(origin, host);
    host.endpoints += 1;
    this.#unanswered.set(key, endpoint);
    for (let times = 0; times < 2 && this.size > this.capacity; times++) {
      if (!this.#forgetOne(this.#unanswered, endpoint)) this.#forgetOne(this.#answered, endpoint);
    }
    return endpoint;
  }

  /** It has answered, for the first time or again. */
  answered(endpoint: E): void {
    if (this.#unanswered.delete(endpoint.key)) this.#answered.set(endpoint.key, endpoint);
  }

  #forgetOne(part: Map<string, E>, but: E): boolean {
    let looks = 0;
    for (const [key, endpoint] of part) {
      part.delete(key);
      if (endpoint.isIdle && endpoint !== but) {
        const { host } = endpoint;
        host.endpoints -= 1;
        if (host.endpoints === 0) this.#hosts.delete(host.origin);
        this.forgotten(endpoint, host.endpoints === 0 ? host : undefined);
        return true;
      }
      part.set(key, endpoint); // it is in use: last in line again
      looks += 1;
      if (looks === MAX_LOOKS) break;
    }
    return false;
  }
}
