import { existsSync } from "node:fs";
import { installWithApt } from "./apt.mjs";
import { findOnPath, run } from "./command.mjs";
import { chooseInstallerHere, commands, summariseFailure } from "./install-valkey.mjs";

const names = ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome"];
const macApps = ["Chromium", "Google Chrome"].map((name) => `/Applications/${name}.app/Contents/MacOS/${name}`);

/** Without its fonts Debian's Chromium shows text in whatever there is, or in none. */
const aptChoices = [{ packages: ["chromium", "fonts-liberation"] }, { packages: ["chromium-browser"] }];

/**
 * Find a Chromium, or a Chrome.
 *
 * @returns {string | undefined} its full name
 */
export function findChromium() {
  for (const name of names) {
    const file = findOnPath(name);
    if (file) return file;
  }
  return macApps.find((file) => existsSync(file));
}

/**
 * Install Chromium with the system's package manager.
 *
 * @param {(line: string) => void} say told what is going on, before it begins
 * @returns {Promise<string | undefined>} why it failed, in one line; undefined when it is there now
 */
export async function installChromium(say) {
  const choice = await chooseInstallerHere();
  if ("reason" in choice) return choice.reason;
  const { manager, prefix } = choice;
  say(`installing chromium with ${manager} (FLUXHOOK_NO_INSTALL=1 forbids it)`);
  const result =
    manager === "apt-get"
      ? await installWithApt(prefix, aptChoices)
      : await run([...prefix, ...commands[manager], ...(manager === "brew" ? ["--cask"] : []), "chromium"], {
          timeoutMs: 600_000,
        });
  if (result.interrupted) return "interrupted";
  if (!result.ok) return `${manager}: ${summariseFailure(result.output)}`;
  return findChromium() ? undefined : `what ${manager} installed is not on PATH`;
}
