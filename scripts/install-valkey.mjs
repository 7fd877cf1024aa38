import { installWithApt } from "./apt.mjs";
import { findOnPath, run } from "./command.mjs";

const oldestRedis = 7; // major version; every Valkey is recent enough, since its first release was 7.2

/** How each package manager installs. None of these starts or enables a service. */
export const commands = {
  brew: ["env", "HOMEBREW_NO_AUTO_UPDATE=1", "brew", "install", "--quiet"],
  dnf: ["dnf", "--assumeyes", "--quiet", "--setopt=install_weak_deps=False", "install"],
  apk: ["apk", "add", "--no-cache", "--quiet"],
};

const aptChoices = [
  { packages: ["valkey-server"], isInBackports: true, services: ["valkey-server"] },
  { packages: ["valkey-server"], services: ["valkey-server"] },
  { packages: ["redis-server"], services: ["redis-server"] },
];

/**
 * Read the major version from what `redis-server --version` prints.
 *
 * @param {string} text such as "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64"
 * @returns {number | undefined}
 */
export function parseMajorVersion(text) {
  const match = text.match(/\bv=(\d+)\./);
  return match ? Number(match[1]) : undefined;
}

/**
 * Find a server that is recent enough: Valkey, else Redis. Valkey is not started to ask, so that the usual case is quick.
 *
 * @returns {Promise<"valkey-server" | "redis-server" | undefined>}
 */
export async function findServer() {
  if (findOnPath("valkey-server")) return "valkey-server";
  const redis = findOnPath("redis-server");
  if (!redis) return undefined;
  const major = parseMajorVersion((await run([redis, "--version"], { timeoutMs: 5_000 })).output);
  return major !== undefined && major >= oldestRedis ? "redis-server" : undefined;
}

/**
 * Choose the package manager to install with.
 *
 * Homebrew refuses to run as root; the others need root, or sudo that asks for no password, since nobody may be there
 * to type one.
 *
 * @param {{ has: (program: string) => boolean, isRoot: boolean, hasSudo: boolean }} machine
 * @returns {{ manager: "apt-get" | "brew" | "dnf" | "apk", prefix: string[] } | { reason: string }} `prefix` goes before each command
 */
export function chooseInstaller({ has, isRoot, hasSudo }) {
  if (has("brew") && !isRoot) return { manager: "brew", prefix: [] };
  for (const manager of /** @type {const} */ (["apt-get", "dnf", "apk"])) {
    if (!has(manager)) continue;
    if (isRoot) return { manager, prefix: [] };
    if (hasSudo) return { manager, prefix: ["sudo", "-n"] };
    return { reason: `${manager} needs root, or sudo without a password` };
  }
  return { reason: "none of apt-get, Homebrew, dnf and apk is usable here" };
}

/** {@link chooseInstaller}, for this machine. */
export async function chooseInstallerHere() {
  const isRoot = process.getuid?.() === 0;
  const hasSudo = !isRoot && findOnPath("sudo") !== undefined && (await run(["sudo", "-n", "true"])).ok;
  return chooseInstaller({ has: (program) => findOnPath(program) !== undefined, isRoot, hasSudo });
}

/**
 * Install Valkey, or Redis where there is no Valkey, with the system's package manager.
 *
 * @param {(line: string) => void} say told what is going on, before it begins
 * @returns {Promise<string | undefined>} why it failed, in one line; undefined when a server is there now
 */
export async function installServer(say) {
  const choice = await chooseInstallerHere();
  if ("reason" in choice) return choice.reason;
  const { manager, prefix } = choice;
  say(`installing valkey-server with ${manager} (FLUXHOOK_NO_INSTALL=1 forbids it)`);
  const result =
    manager === "apt-get" ? await installWithApt(prefix, aptChoices) : await installWith(commands[manager], prefix);
  if (result.interrupted) return "interrupted";
  if (!result.ok) return `${manager}: ${summariseFailure(result.output)}`;
  return (await findServer()) ? undefined : `what ${manager} has is too old`;
}

/**
 * @param {string[]} install
 * @param {string[]} prefix
 */
async function installWith(install, prefix) {
  const first = await run([...prefix, ...install, "valkey"], { timeoutMs: 600_000 });
  return first.ok || first.interrupted ? first : run([...prefix, ...install, "redis"], { timeoutMs: 600_000 });
}

/**
 * Pick the words of a package manager that say what went wrong: its first complaint and its last. The first is often
 * the cause ("Failed to fetch"), the last the consequence ("Unable to locate package").
 *
 * @param {string} output
 * @returns {string} one line, never empty
 */
export function summariseFailure(output) {
  const lines = output.split("\n").filter((line) => line.trim() !== "");
  const complaints = lines.filter((line) => /^(E:|W:|err)/i.test(line));
  const [first, last] = [complaints[0], complaints.at(-1) ?? lines.at(-1)];
  if (last === undefined) return "failed without a message";
  return first === undefined || first === last ? last : `${first}; ${last}`;
}
