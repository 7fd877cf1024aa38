import { delimiter } from "node:path";
import { installWithApt } from "./apt.mjs";
import { findOnPath, run } from "./command.mjs";
import { chooseInstallerHere, commands, summariseFailure } from "./install-valkey.mjs";

const names = ["squid", "tinyproxy"];
const path = [process.env.PATH ?? "", "/usr/sbin", "/usr/local/sbin"].join(delimiter); // where Debian puts squid

/** Name those of the proxies that are not on this machine. */
export function findMissingProxies() {
  return names.filter((name) => findOnPath(name, path) === undefined);
}

/**
 * Install squid and tinyproxy, for the tests of deliveries through them, with the system's package manager.
 *
 * @param {(line: string) => void} say told what is going on, before it begins
 * @returns {Promise<string | undefined>} why it failed, in one line; undefined when both are there now
 */
export async function installEgressProxies(say) {
  const choice = await chooseInstallerHere();
  if ("reason" in choice) return choice.reason;
  const { manager, prefix } = choice;
  const missing = findMissingProxies();
  say(`installing ${missing.join(" and ")} with ${manager} (FLUXHOOK_NO_INSTALL=1 forbids it)`);
  const result =
    manager === "apt-get"
      ? await installWithApt(prefix, [{ packages: missing, services: missing }])
      : await run([...prefix, ...commands[manager], ...missing], { timeoutMs: 600_000 });
  if (result.interrupted) return "interrupted";
  if (!result.ok) return `${manager}: ${summariseFailure(result.output)}`;
  return findMissingProxies().length === 0 ? undefined : `what ${manager} installed is not where it belongs`;
}
