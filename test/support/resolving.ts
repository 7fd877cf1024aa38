/** Resolvers that ask name servers of the test's own, and know no file of this machine. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LookupError } from "../../src/dns/address.ts";
import { createResolver, type Resolver, type ResolverOptions } from "../../src/dns/resolver.ts";
import type { Script, TestNameServer } from "./name-server.ts";

const directory = mkdtempSync(join(tmpdir(), "resolver-"));
process.on("exit", () => rmSync(directory, { recursive: true, force: true }));

/** A file with this text; its path. */
export function file(text: string): string {
  const path = join(directory, crypto.randomUUID());
  writeFileSync(path, text);
  return path;
}

/** Gives up on silent servers as soon as the settings allow. */
export const QUICK = "options timeout:1 attempts:1";
/** The outcomes of {@link outcomeOf} for a name that does not exist, and for servers that do not answer. */
export const DNS = "failure dns";
export const NO_SERVERS = "fault resolver";

/** A clock that a test puts forward: what is known of a name grows old by it. */
export function movableClock() {
  let aheadMs = 0;
  return { now: () => performance.now() + aheadMs, pass: (ms: number) => (aheadMs += ms) };
}

/** A resolver that asks these servers alone. */
export function resolverOf(
  servers: TestNameServer[],
  { resolvConf = "", hosts = "" } = {},
  options: ResolverOptions = {},
) {
  return createResolver({
    servers: servers.map(({ server }) => server),
    resolvConfPath: file(resolvConf),
    hostsPath: file(hosts),
    ...options,
  });
}

/** The addresses of a name, or what the attempt ends with. */
export async function outcomeOf({ resolve }: Resolver, name: string): Promise<string[] | string> {
  try {
    return (await resolve(name)).map(({ address }) => address);
  } catch (error) {
    if (!(error instanceof LookupError)) throw error;
    const { result } = error;
    const cause = "cause" in result ? ` (${result.cause})` : "";
    return `${result.kind} ${result.code}${cause}`;
  }
}

export async function timed<T>(work: () => Promise<T>): Promise<{ value: T; ms: number }> {
  const startedAt = performance.now();
  return { value: await work(), ms: performance.now() - startedAt };
}

/** Silent for everything below `dead.example` and the like, and at once for the rest. */
export const deadBeside =
  (healthy: Script, isDead = (name: string) => name.includes("dead")): Script =>
  (question) =>
    isDead(question.name) ? undefined : healthy(question);
