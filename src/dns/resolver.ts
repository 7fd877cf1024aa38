/**
 * Host names to addresses, without the threads of `dns.lookup`: there, two names whose servers are silent hold up all others.
 *
 * The hosts file, resolv.conf and then the name servers, as the system's own resolver does; not what else nsswitch.conf may
 * name. Answers are kept for their TTL within bounds, and each name is asked for once, however many attempts wait for it.
 */
import { type Address, LookupError, type Resolve } from "./address.ts";
import { followFile, parseHosts } from "./hosts-file.ts";
import { type Ask, type Found, lookUp } from "./lookup.ts";
import { domainOf, LookupRoom, type Visitor } from "./lookup-room.ts";
import { buildQuestion } from "./message.ts";
import { NameServerClient } from "./name-server.ts";
import { askServers } from "./question.ts";
import { candidatesFor, type LookupRules, type NameServer, parseResolvConf } from "./resolv-conf.ts";
import { Witnesses } from "./witnesses.ts";

export interface ResolverOptions {
  /** Who is asked; those of resolv.conf when empty. */
  readonly servers?: readonly NameServer[];
  /**
   * The kind of an address that may not be reached; undefined for others. A name with such an address is taken for one that does
   * not exist, and looked up just like it: how long that takes must not show customers which names there are inside.
   */
  readonly blocked?: (address: string) => string | undefined;
  readonly hostsPath?: string;
  readonly resolvConfPath?: string;
  /** The clock, ms, by which what is known of a name grows old: the one of this process. */
  readonly now?: () => number;
}

export interface Resolver {
  /** Rejects with a {@link LookupError} only. The order is IPv4, then IPv6. */
  readonly resolve: Resolve;
  /** What an attempt ends with whose deadline has come before the addresses of its host. */
  unresolved(hostname: string): LookupError["result"];
}

const MIN_TTL_MS = 1000; // 1 s
const MAX_TTL_MS = 60 * 1000; // 1 min: how late a name that moves may be noticed
const FAILURE_TTL_MS = 3 * 1000; // 3 s: less than the first retry, which shall ask anew
const MAX_NAMES = 10_000;
const MAX_WAIT_MS = 4 * 1000; // 4 s for a place: as long as the servers have
const OVERDUE_MS = 250; // then it is asked whether other names have an answer

const DEAD: LookupError["result"] = { kind: "failure", code: "dns" };
/** No name server answers for any name. */
export const NO_SERVERS: LookupError["result"] = { kind: "fault", code: "resolver" };
/** Too many other names of its domain wait: nothing was asked, so nobody is to blame. */
const NO_PLACE: LookupError["result"] = { kind: "fault", code: "resources" };

const LOOPBACK: readonly Address[] = [
  { address: "127.0.0.1", family: 4 },
  { address: "::1", family: 6 },
];

/** A name without an address; `cause` is the kind of address it has, where that may not be reached. */
function noAddress(cause: string | undefined): LookupError {
  return new LookupError(cause === undefined ? DEAD : { kind: "failure", code: "dns", cause });
}

/** What is known of a name. */
interface Known {
  readonly until: number;
  /** Undefined: nothing, or nobody answered. */
  readonly addresses: readonly Address[] | undefined;
  readonly cause: string | undefined;
  readonly isDoubtful: boolean;
}

export function createResolver(options: ResolverOptions = {}): Resolver {
  const { servers: given = [], blocked, hostsPath = "/etc/hosts", resolvConfPath = "/etc/resolv.conf" } = options;
  const { now = () => performance.now() } = options;
  const hosts = followFile(hostsPath, parseHosts);
  const rules = followFile(resolvConfPath, (text): LookupRules & { clients: readonly NameServerClient[] } => {
    const parsed = parseResolvConf(text);
    const servers = given.length > 0 ? given : parsed.servers;
    return { ...parsed, clients: servers.map((server) => new NameServerClient(server)) };
  });
  let turn = 0;
  const ask: Ask = (name, type, onVerdict) => {
    const { clients, rotates, ...rest } = rules();
    const first = rotates ? turn++ % clients.length : 0;
    const ordered = [...clients.slice(first), ...clients.slice(0, first)];
    return askServers(ordered, rest, name, type, (verdict) => {
      if (verdict.kind === "addresses" || verdict.kind === "no_name") witnesses.answered();
      const cause = verdict.kind === "addresses" ? causeOf(verdict.addresses) : undefined;
      onVerdict(cause === undefined ? verdict : { kind: "no_name", cause });
    });
  };
  const witnesses = new Witnesses(ask);
  const room = new LookupRoom();
  const known = new Map<string, Known>(); // the last used at the end
  const open = new Map<string, Lookup>();

  function causeOf(addresses: readonly string[]): string | undefined {
    if (blocked === undefined) return undefined;
    for (const address of addresses) {
      const kind = blocked(address);
      if (kind !== undefined) return kind;
    }
    return undefined;
  }

  function remember(name: string, found: Found): void {
    const ttlMs = found.kind === "addresses" ? found.ttlSeconds * 1000 : FAILURE_TTL_MS;
    known.delete(name);
    known.set(name, {
      until: now() + Math.min(MAX_TTL_MS, Math.max(MIN_TTL_MS, ttlMs)),
      addresses: found.kind === "addresses" ? found.addresses : undefined,
      cause: found.kind === "none" ? found.cause : undefined,
      isDoubtful: found.kind === "unanswered",
    });
    const [oldest] = known.keys();
    if (known.size > MAX_NAMES) known.delete(oldest as string);
  }

  async function fromServers(name: string): Promise<readonly Address[]> {
    const last = known.get(name);
    if (last !== undefined && now() < last.until) {
      if (last.addresses === undefined) throw noAddress(last.cause);
      return last.addresses;
    }
    let lookup = open.get(name);
    if (lookup === undefined) {
      const candidates = candidatesFor(name, rules()).filter((each) => buildQuestion(0, each, "A") !== undefined);
      lookup = new Lookup(name, candidates, last?.isDoubtful ?? false, { ask, room, witnesses });
      open.set(name, lookup);
      lookup.found.then(
        (found) => {
          open.delete(name);
          remember(name, found);
        },
        (error: LookupError) => {
          open.delete(name);
          if (error.result === DEAD) remember(name, { kind: "unanswered" });
        },
      );
    }
    const found = await lookup.found;
    if (found.kind !== "addresses") throw noAddress(found.kind === "none" ? found.cause : undefined);
    return found.addresses;
  }

  /** A name that the hosts file leads inside: its servers are asked all the same, so that it takes as long as others. */
  async function refuse(name: string, cause: string): Promise<never> {
    try {
      await fromServers(name);
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
      if (local === undefined) return fromServers(name);
      const cause = causeOf(local.map(({ address }) => address));
      if (cause === undefined) return local;
      if (isLocalhost) throw noAddress(cause); // no secret, and no question for a name server (RFC 6761 section 6.3)
      return refuse(name, cause);
    },
    unresolved: (hostname) => open.get(hostname.toLowerCase())?.blame() ?? NO_SERVERS,
  };
}

/** A lookup under way, for all that wait for it. */
class Lookup implements Visitor {
  readonly domain: string;
  /** Rejects with a {@link LookupError}. */
  readonly found: Promise<Found>;
  readonly #bare: string;
  #startedAt: number | undefined;
  #timer: Timer | undefined;
  #stop = (): void => {};
  readonly #settle: (found: Found) => void;
  readonly #fail: (result: LookupError["result"]) => void;

  constructor(
    name: string,
    private readonly candidates: readonly string[],
    readonly isDoubtful: boolean,
    private readonly parts: { readonly ask: Ask; readonly room: LookupRoom; readonly witnesses: Witnesses },
  ) {
    const { promise, resolve, reject } = Promise.withResolvers<Found>();
    this.#bare = name.replace(/\.$/, "");
    this.domain = domainOf(this.#bare);
    this.found = promise;
    this.#settle = resolve;
    this.#fail = (result) => reject(new LookupError(result));
    if (!parts.room.enter(this)) this.#fail(this.blame());
    else if (this.#startedAt === undefined) this.#timer = setTimeout(() => this.#giveUpWaiting(), MAX_WAIT_MS).unref();
  }

  #giveUpWaiting(): void {
    this.parts.room.leave(this);
    this.#fail(this.blame());
  }

  start(): void {
    this.#startedAt = performance.now();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      if (!this.#othersHaveAnswers) this.parts.witnesses.hear();
    }, OVERDUE_MS).unref();
    this.#stop = lookUp(this.parts.ask, this.candidates, (found) => this.#end(found));
  }

  giveUp(): void {
    this.#stop();
    this.#end({ kind: "unanswered" });
  }

  async #end(found: Found): Promise<void> {
    const { room, witnesses } = this.parts;
    clearTimeout(this.#timer);
    room.leave(this);
    if (found.kind === "addresses") witnesses.remember(this.domain, this.#bare);
    if (found.kind === "unanswered" && !this.#othersHaveAnswers) await witnesses.hear();
    if (found.kind === "unanswered") this.#fail(this.blame());
    else this.#settle(found);
  }

  get #othersHaveAnswers(): boolean {
    return this.parts.witnesses.haveSpokenSince(this.#startedAt as number);
  }

  /** Whose trouble it is that there is no answer, as far as is known. */
  blame(): LookupError["result"] {
    if (this.#startedAt === undefined) return this.isDoubtful ? DEAD : NO_PLACE;
    return this.#othersHaveAnswers ? DEAD : NO_SERVERS;
  }
}
