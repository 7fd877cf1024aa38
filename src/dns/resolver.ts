/**
 * Resolves host names without the thread pool of `dns.lookup`, in which two names with silent servers would block all others.
 *
 * Reads the hosts file, then asks the name servers of resolv.conf, as the system's resolver does, but ignores nsswitch.conf.
 * Answers are cached, and each name is looked up once at a time, however many attempts need it.
 */
import { type Address, LookupError, type Resolve } from "./address.ts";
import { AnswerCache } from "./answer-cache.ts";
import { followFile, parseHosts } from "./hosts-file.ts";
import { Liveness } from "./liveness.ts";
import type { Ask } from "./lookup.ts";
import { LookupQueue } from "./lookup-queue.ts";
import { buildQuestion } from "./message.ts";
import { NameServerClient } from "./name-server.ts";
import { DEAD, type LookupParts, NO_SERVERS, PendingLookup } from "./pending-lookup.ts";
import { askServers } from "./question.ts";
import { candidatesFor, type LookupRules, type NameServer, parseResolvConf } from "./resolv-conf.ts";

export { NO_SERVERS };

/** Returns the kind of a blocked address; undefined for an allowed one. */
type Blocked = (address: string) => string | undefined;

export interface ResolverOptions {
  /** Name servers to ask; those of resolv.conf when empty. */
  readonly servers?: readonly NameServer[];
  /**
   * Returns the kind of a blocked address; undefined for an allowed one. A name with a blocked address is treated as one that does
   * not exist, and takes just as long: timing must not reveal to customers which internal names exist.
   */
  readonly blocked?: Blocked;
  readonly hostsPath?: string;
  readonly resolvConfPath?: string;
  /** The clock by which cached answers expire. Monotonic, ms. */
  readonly now?: () => number;
}

export interface Resolver {
  /** Rejects only with a {@link LookupError}. IPv4 addresses come first. */
  readonly resolve: Resolve;
  /** The result of an attempt that reaches its deadline while this host is still being looked up. */
  unresolved(hostname: string): LookupError["result"];
}

const LOOPBACK: readonly Address[] = [
  { address: "127.0.0.1", family: 4 },
  { address: "::1", family: 6 },
];

/** Create a resolver with a cache of its own. */
export function createResolver(options: ResolverOptions = {}): Resolver {
  const {
    servers: given = [],
    blocked = () => undefined,
    hostsPath = "/etc/hosts",
    resolvConfPath = "/etc/resolv.conf",
    now = () => performance.now(),
  } = options;
  const hosts = followFile(hostsPath, parseHosts);
  const rules = followFile(resolvConfPath, (text) => {
    const parsed = parseResolvConf(text);
    const servers = given.length > 0 ? given : parsed.servers;
    return { ...parsed, clients: servers.map((server) => new NameServerClient(server)) };
  });
  const lookups = new ServerLookups(rules, blocked, now);

  /** Refuse a name that the hosts file maps to a blocked address, once its servers have answered, so that it takes as long as others. */
  async function refuse(name: string, cause: string): Promise<never> {
    try {
      await lookups.resolve(name);
    } catch (error) {
      if ((error as LookupError).result.kind === "fault") throw error;
    }
    throw noAddress(cause);
  }

  return {
    async resolve(hostname) {
      const name = hostname.toLowerCase();
      const bare = name.replace(/\.$/, "");
      const isLocalhost = /(^|\.)localhost$/.test(bare);
      const local = hosts().get(bare) ?? (isLocalhost ? LOOPBACK : undefined);
      if (local === undefined) return lookups.resolve(name);
      const cause = blockedCause(
        local.map(({ address }) => address),
        blocked,
      );
      if (cause === undefined) return local;
      if (isLocalhost) throw noAddress(cause); // no secret, and name servers must not be asked (RFC 6761 section 6.3)
      return refuse(name, cause);
    },
    unresolved: (hostname) => lookups.unresolved(hostname.toLowerCase()),
  };
}

/** The rules of resolv.conf, with a client for each server. */
type Rules = LookupRules & { readonly clients: readonly NameServerClient[] };

/** Lookups by the name servers: one at a time for each name, and cached. */
class ServerLookups {
  readonly #cache: AnswerCache;
  readonly #pending = new Map<string, PendingLookup>();
  readonly #parts: LookupParts;

  constructor(
    private readonly rules: () => Rules,
    blocked: Blocked,
    now: () => number,
  ) {
    this.#cache = new AnswerCache(now);
    const ask = createAsk(rules, blocked, () => liveness.answered());
    const liveness = new Liveness(ask);
    this.#parts = { ask, queue: new LookupQueue(), liveness };
  }

  async resolve(name: string): Promise<readonly Address[]> {
    const cached = this.#cache.get(name);
    if (cached !== undefined && this.#cache.isFresh(cached)) {
      if (cached.addresses === undefined) throw noAddress(cached.cause);
      return cached.addresses;
    }
    const lookup = this.#pending.get(name) ?? this.#start(name, cached?.isDoubtful ?? false);
    const found = await lookup.found;
    if (found.kind !== "addresses") throw noAddress(found.kind === "none" ? found.cause : undefined);
    return found.addresses;
  }

  #start(name: string, isDoubtful: boolean): PendingLookup {
    const candidates = candidatesFor(name, this.rules()).filter((each) => buildQuestion(0, each, "A") !== undefined);
    const lookup = new PendingLookup(name, candidates, isDoubtful, this.#parts);
    this.#pending.set(name, lookup);
    lookup.found.then(
      (found) => {
        this.#pending.delete(name);
        this.#cache.set(name, found);
      },
      (error: LookupError) => {
        this.#pending.delete(name);
        if (error.result === DEAD) this.#cache.set(name, { kind: "unanswered" });
      },
    );
    return lookup;
  }

  unresolved(name: string): LookupError["result"] {
    return this.#pending.get(name)?.blame() ?? NO_SERVERS;
  }
}

/** Create the function that asks the name servers, and reports names with blocked addresses as non-existent. */
function createAsk(rules: () => Rules, blocked: Blocked, onAnswer: () => void): Ask {
  let questions = 0; // counts them for `rotate`
  return (name, type, onVerdict) => {
    const { clients, rotates, ...rest } = rules();
    const first = rotates ? questions++ % clients.length : 0;
    const ordered = [...clients.slice(first), ...clients.slice(0, first)];
    return askServers(ordered, rest, name, type, (verdict) => {
      if (verdict.kind === "addresses" || verdict.kind === "no_name") onAnswer();
      const cause = verdict.kind === "addresses" ? blockedCause(verdict.addresses, blocked) : undefined;
      onVerdict(cause === undefined ? verdict : { kind: "no_name", cause });
    });
  };
}

/** The kind of the first blocked address; undefined when all are allowed. */
function blockedCause(addresses: readonly string[], blocked: Blocked): string | undefined {
  for (const address of addresses) {
    const cause = blocked(address);
    if (cause !== undefined) return cause;
  }
  return undefined;
}

/** The error for a name without an address; `cause` is the kind of its blocked address, if it has one. */
function noAddress(cause: string | undefined): LookupError {
  return new LookupError(cause === undefined ? DEAD : { kind: "failure", code: "dns", cause });
}
