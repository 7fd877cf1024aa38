/**
 * The endpoints that a worker remembers, an LRU cache in two parts. Idle endpoints that have never answered are evicted first, so
 * that a flood of dead URLs does not evict endpoints known to be healthy. Pure.
 */
import { type Endpoint, Host } from "./endpoint.ts";

const MAX_LOOKS = 100; // endpoints in use that are passed over in search of an idle one

export class Memory<E extends Endpoint> {
  readonly #hosts = new Map<string, Host>();
  readonly #unanswered = new Map<string, E>(); // least recently used first, as in #answered
  readonly #answered = new Map<string, E>();

  /**
   * @param capacity  in endpoints, about 1 KB each; exceeded only while too many are in use
   * @param onEvict   called with each evicted endpoint, and with its host if no other endpoint of it is left
   */
  constructor(
    private readonly capacity: number,
    private readonly make: (key: string, host: Host) => E,
    private readonly onEvict: (endpoint: E, host: Host | undefined) => void,
  ) {}

  get size(): number {
    return this.#unanswered.size + this.#answered.size;
  }

  /** The endpoint with a key, created if it is not remembered. */
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
      if (!this.#evictOne(this.#unanswered, endpoint)) this.#evictOne(this.#answered, endpoint);
    }
    return endpoint;
  }

  /** The endpoint has answered, for the first time or again. */
  answered(endpoint: E): void {
    if (this.#unanswered.delete(endpoint.key)) this.#answered.set(endpoint.key, endpoint);
  }

  #evictOne(part: Map<string, E>, except: E): boolean {
    let looks = 0;
    for (const [key, endpoint] of part) {
      part.delete(key);
      if (endpoint.isIdle && endpoint !== except) {
        const { host } = endpoint;
        host.endpoints -= 1;
        if (host.endpoints === 0) this.#hosts.delete(host.origin);
        this.onEvict(endpoint, host.endpoints === 0 ? host : undefined);
        return true;
      }
      part.set(key, endpoint); // in use: becomes the most recently used
      looks += 1;
      if (looks === MAX_LOOKS) break;
    }
    return false;
  }
}
