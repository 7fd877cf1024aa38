import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { buildBackports, parseDeb822, parseOneLine } from "./apt-sources.mjs";
import { run } from "./command.mjs";

const policyFile = "/usr/sbin/policy-rc.d";

/**
 * Install the first of some choices that apt can get, and leave apt's configuration as it was.
 *
 * Debian 12 has Valkey in its backports only. Those are added for this one installation: apt is pointed at a temporary
 * directory that holds copies of the machine's sources plus that one entry, its own package lists and its own cache.
 *
 * @param {string[]} prefix put before each command: empty for root, else sudo
 * @param {{ packages: string[], isInBackports?: boolean, services?: string[] }[]} choices what to install, in order of
 *   preference; from Debian's backports where `isInBackports`; the `services` are kept from starting with the machine
 * @returns {Promise<{ ok: boolean, output: string, interrupted: boolean }>} of the last command that counted
 */
export async function installWithApt(prefix, choices) {
  const directory = mkdtempSync(join(tmpdir(), "fluxhook-apt-"));
  try {
    chmodSync(directory, 0o755); // apt downloads as the user _apt, who must get in
    const backports = copySources(directory);
    const aptGet = [
      ...prefix,
      "env",
      "DEBIAN_FRONTEND=noninteractive",
      "NEEDRESTART_SUSPEND=1", // Ubuntu: do not restart the machine's services on this occasion
      "apt-get",
      "-qq",
      ...aptOptions(directory),
    ];
    // A failed update is no reason to stop: one broken third-party source fails it, and the others were read all the same.
    const update = await run([...aptGet, "update"], { timeoutMs: 180_000 });
    if (update.interrupted) return update;
    return await withoutServices(prefix, directory, async () => {
      const install = [...aptGet, "install", "--yes", "--no-install-recommends"];
      let last = update;
      for (const { packages, isInBackports, services } of choices) {
        if (isInBackports && !backports) continue;
        const suite = isInBackports ? ["-t", backports ?? ""] : [];
        last = await run([...install, ...suite, ...packages], { timeoutMs: 300_000 });
        if (last.ok && services) await disableAtBoot(prefix, services);
        if (last.ok || last.interrupted) break;
      }
      return last.ok ? last : { ...last, output: `${update.output}\n${last.output}`.trim() };
    });
  } finally {
    await run([...prefix, "rm", "-rf", directory]); // some of it belongs to root by now
  }
}

/** @param {string} directory */
function aptOptions(directory) {
  const settings = {
    "Dir::Etc::sourcelist": join(directory, "sources.list"),
    "Dir::Etc::sourceparts": join(directory, "sources.list.d"),
    "Dir::State::lists": join(directory, "lists"),
    "Dir::Cache": join(directory, "cache"),
    "DPkg::Lock::Timeout": "60", // seconds to wait for another apt
    "Dpkg::Use-Pty": "0",
  };
  return Object.entries(settings).flatMap(([name, value]) => ["-o", `${name}=${value}`]);
}

/**
 * Copy the machine's sources into the directory, on Debian with its backports.
 *
 * @param {string} directory
 * @returns {string | undefined} the name of the backports suite, when there is one
 */
function copySources(directory) {
  for (const name of ["sources.list.d", "lists/partial", "cache/archives/partial"]) {
    mkdirSync(join(directory, name), { recursive: true });
  }
  writeFileSync(join(directory, "sources.list"), "");
  const sources = [];
  for (const file of listSources("/etc/apt")) {
    const inParts = basename(file) !== "sources.list";
    copyFileSync(file, join(directory, inParts ? "sources.list.d" : "", basename(file)));
    const text = readFileSync(file, "utf8");
    sources.push(...(file.endsWith(".sources") ? parseDeb822(text) : parseOneLine(text)));
  }
  const { id, codename } = readRelease();
  if (id !== "debian" || !codename) return undefined;
  const suite = `${codename}-backports`;
  if (sources.some(({ suites }) => suites.includes(suite))) return suite;
  const backports = buildBackports(sources, codename);
  if (!backports) return undefined;
  writeFileSync(join(directory, "sources.list.d", "fluxhook-backports.sources"), backports);
  return suite;
}

/** @param {string} etc */
function listSources(etc) {
  const parts = join(etc, "sources.list.d");
  const names = existsSync(parts) ? readdirSync(parts).filter((name) => /\.(list|sources)$/.test(name)) : [];
  return [join(etc, "sources.list"), ...names.map((name) => join(parts, name))].filter((file) => existsSync(file));
}

function readRelease() {
  const text = existsSync("/etc/os-release") ? readFileSync("/etc/os-release", "utf8") : "";
  const field = (/** @type {string} */ name) => text.match(new RegExp(`^${name}="?([^"\\n]*)`, "m"))?.[1];
  return { id: field("ID"), codename: field("VERSION_CODENAME") };
}

/**
 * Keep package scripts from starting services: a Valkey on port 6379 would be a surprise. policy-rc.d is what Debian
 * has for that; a machine that has one of its own keeps it.
 *
 * @template T
 * @param {string[]} prefix
 * @param {string} directory
 * @param {() => Promise<T>} work
 * @returns {Promise<T>}
 */
async function withoutServices(prefix, directory, work) {
  if (existsSync(policyFile)) return work();
  const policy = join(directory, "policy-rc.d");
  writeFileSync(policy, "#!/bin/sh\nexit 101\n"); // 101: action forbidden by policy
  await run([...prefix, "install", "-m", "755", policy, policyFile]);
  try {
    return await work();
  } finally {
    await run([...prefix, "rm", "-f", policyFile]);
  }
}

/**
 * Debian enables what it installs: without this, the services that were not started now would start with the machine.
 *
 * @param {string[]} prefix
 * @param {string[]} services
 */
async function disableAtBoot(prefix, services) {
  if (existsSync("/run/systemd/system")) await run([...prefix, "systemctl", "--quiet", "disable", ...services]);
}
