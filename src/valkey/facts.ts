/**
 * What a Valkey (or Redis) server says about itself. Pure but for the asking.
 */

/** What a server says about itself. */
export interface ValkeyFacts {
  /** `Valkey 8.0.1` or `Redis 7.0.15`. */
  readonly server: string;
  /** `noeviction`, or a policy under which queued events may vanish; {@link UNTOLD} when it does not tell. */
  readonly evictionPolicy: string;
  /** Whether the append-only file is on; undefined when it does not tell. */
  readonly appendOnly: boolean | undefined;
  /** Whether it takes writes: a replica does not. */
  readonly isPrimary: boolean;
  /** Undefined when it does not tell. */
  readonly usedMemoryBytes: number | undefined;
  /** 0 when there is no limit, undefined when it does not tell. */
  readonly maxMemoryBytes: number | undefined;
}

/** In place of an eviction policy that a user without INFO does not get to know. */
export const UNTOLD = "unknown";

/** Whether what is queued survives a restart, in words. */
export function describePersistence(appendOnly: boolean | undefined | null): string {
  if (typeof appendOnly !== "boolean") return UNTOLD;
  return appendOnly ? "append-only file" : "no append-only file: a restart may lose what is queued";
}

/** Ask Valkey about itself. Waits while it is away: race it with a deadline where that matters. */
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

/** Whether the text of INFO says that the server still reads its data, as after a start. */
export const isLoading = (info: string): boolean => parseInfo(info).get("loading") === "1";

const OLDEST = "7.2.0"; // the oldest that we support: what is told of a server that tells nothing

/**
 * The text of INFO for a user that may not ask for it, as far as HELLO knows: the version and the role.
 *
 * @param hello  HELLO's reply, names and values in turn; empty when that is refused too
 */
export function buildInfo(hello: readonly unknown[]): string {
  const told = new Map<unknown, unknown>();
  for (let i = 0; i < hello.length; i += 2) told.set(hello[i], hello[i + 1]);
  const server = told.get("server") === "valkey" ? "valkey" : "redis";
  return `${server}_version:${told.get("version") ?? OLDEST}\r\nrole:${told.get("role") ?? "master"}\r\n`;
}

function parseInfo(info: string): Map<string, string> {
  return new Map(info.split("\r\n").map((line) => line.split(":", 2) as [string, string]));
}
