/**
 * What a Valkey (or Redis) server reports about itself. Pure except for the INFO call.
 */

/** A server's facts, from INFO. */
export interface ValkeyFacts {
  /** `Valkey 8.0.1` or `Redis 7.0.15`. */
  readonly server: string;
  /** `noeviction`, or a policy that may evict queued events; {@link UNTOLD} when not reported. */
  readonly evictionPolicy: string;
  /** Whether the append-only file is on; undefined when not reported. */
  readonly appendOnly: boolean | undefined;
  /** Whether it accepts writes; a replica does not. */
  readonly isPrimary: boolean;
  /** Undefined when not reported. */
  readonly usedMemoryBytes: number | undefined;
  /** 0 for no limit; undefined when not reported. */
  readonly maxMemoryBytes: number | undefined;
}

/** Shown for facts that the server does not report, as to a user without INFO. */
export const UNTOLD = "unknown";

/** Describe whether queued events survive a restart. */
export function describePersistence(appendOnly: boolean | undefined | null): string {
  if (typeof appendOnly !== "boolean") return UNTOLD;
  return appendOnly ? "append-only file" : "no append-only file: a restart may lose queued events";
}

/** Why a server cannot hold the queue at all; undefined when it can. */
export function replicaProblem({ isPrimary }: ValkeyFacts): string | undefined {
  return isPrimary ? undefined : "Valkey takes no writes: it is a replica";
}

/** Why a server may lose queued events while it runs; undefined when it does not, or does not tell. */
export function evictionProblem({ evictionPolicy }: ValkeyFacts): string | undefined {
  if (evictionPolicy === "noeviction" || evictionPolicy === UNTOLD) return undefined;
  return `Valkey may drop queued events: expected maxmemory-policy noeviction, got ${evictionPolicy}`;
}

/** Read the server's facts. Waits while Valkey is away: race it with a deadline where that matters. */
export async function readFacts(valkey: { info(): Promise<string> }): Promise<ValkeyFacts> {
  const info = parseInfo(await valkey.info());
  const version = info.get("valkey_version");
  const numberOf = (field: string) => (info.has(field) ? Number(info.get(field)) : undefined);
  return {
    server: version === undefined ? `Redis ${info.get("redis_version")}` : `Valkey ${version}`,
    evictionPolicy: info.get("maxmemory_policy") ?? UNTOLD,
    appendOnly: info.has("aof_enabled") ? info.get("aof_enabled") === "1" : undefined,
    isPrimary: info.get("role") === "master",
    usedMemoryBytes: numberOf("used_memory"),
    maxMemoryBytes: numberOf("maxmemory"),
  };
}

/** Whether INFO says that the server is still loading its data. */
export const isLoading = (info: string): boolean => parseInfo(info).get("loading") === "1";

const OLDEST = "7.2.0"; // the oldest version we support; assumed when the server reports none

/**
 * A substitute for INFO from HELLO's version and role, for users without the permission.
 *
 * @param hello  HELLO's reply, alternating names and values; empty when it is refused too
 */
export function buildInfo(hello: readonly unknown[]): string {
  const fields = new Map<unknown, unknown>();
  for (let i = 0; i < hello.length; i += 2) fields.set(hello[i], hello[i + 1]);
  const server = fields.get("server") === "valkey" ? "valkey" : "redis";
  return `${server}_version:${fields.get("version") ?? OLDEST}\r\nrole:${fields.get("role") ?? "master"}\r\n`;
}

function parseInfo(info: string): Map<string, string> {
  return new Map(info.split("\r\n").map((line) => line.split(":", 2) as [string, string]));
}
