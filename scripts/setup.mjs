// Makes a machine ready that has only Node: the dependencies, with Bun among them, and a Valkey to run against.
// `npm start`, `npm test` and `npm run check` call it first; when there is nothing to do it is quiet and quick.
//
//   --no-valkey            dependencies only
//   --valkey=unless-url    no Valkey when VALKEY_URL names one
//   --chromium             a Chromium as well, for the browser test
//   --egress-proxies       squid and tinyproxy as well, where CI is set: the tests that need them are skipped without
//   FLUXHOOK_NO_INSTALL=1  install nothing outside this directory
//
// It has to run before anything is installed, so it imports nothing but Node's own modules, and to start on an old Node
// far enough to say that it is too old, so the rest is imported after that check.
import { createHash } from "node:crypto";
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const stampFile = join(root, "node_modules", ".fluxhook-setup");
const localBun = join(root, "node_modules", ".bin", "bun");
const say = (/** @type {string} */ line) => console.log(`setup: ${line}`);

/** A reason to stop that the user can do something about: shown without a stack trace. */
class SetupError extends Error {}

try {
  if (Number(process.versions.node.split(".")[0]) < 20) {
    throw new SetupError(
      `Node 20 or newer is needed, this is ${process.version}. Install a newer one and run this again.`,
    );
  }
  await setUpDependencies();
  if (needsValkey()) await setUpValkey();
  if (process.argv.includes("--chromium")) await setUpChromium();
  if (process.argv.includes("--egress-proxies") && process.env.CI) await setUpEgressProxies();
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  console.error(`setup: ${error.message}`);
  process.exitCode = 1;
}

/** node_modules is up to date when its stamp is the hash of all that decides what belongs there. */
async function setUpDependencies() {
  const manifest = readFileSync(join(root, "package.json"), "utf8");
  const hash = createHash("sha256")
    .update(manifest)
    .update(readFileSync(join(root, "bun.lock")));
  const stamp = hash.update(`${process.platform} ${process.arch}`).digest("hex"); // a directory shared with a container
  if (existsSync(localBun) && existsSync(stampFile) && readFileSync(stampFile, "utf8") === stamp) return;

  const { run } = await import("./command.mjs");
  const version = JSON.parse(manifest).devDependencies.bun;
  const askBun = () => run([localBun, "--version"]);
  const present = await askBun();
  // Installed for another system, or not to the end: an installer would take what is there for good.
  if (!present.ok) rmSync(join(root, "node_modules"), { recursive: true, force: true });
  const bun = present.output === version ? [localBun] : ["npx", "--yes", `bun@${version}`];
  say(`installing the dependencies with Bun ${version}`);
  // Not from this directory: npx would take the bun in node_modules, which has just turned out not to be the right one.
  const { npm_config_local_prefix: _, ...env } = process.env;
  const install = [...bun, "install", "--frozen-lockfile", `--cwd=${root}`];
  const result = await run(install, { cwd: tmpdir(), env, timeoutMs: 600_000 });
  if (result.interrupted) throw new SetupError("interrupted");
  if (!result.ok) {
    throw new SetupError(
      `installing the dependencies failed. What the installer said:\n\n${result.output}\n\n` +
        "If that is about the network, check the connection and npm's registry and proxy settings, then run this again.\n" +
        'If it is about the lock file, package.json and bun.lock do not agree: "bun install" brings them together.',
    );
  }
  if ((await askBun()).output !== version) {
    throw new SetupError(
      `the dependencies are installed, but node_modules/.bin/bun does not run as Bun ${version} on this machine ` +
        `(${process.platform}, ${process.arch}). Remove node_modules and run this again.`,
    );
  }
  writeFileSync(stampFile, stamp);
}

function needsValkey() {
  if (process.argv.includes("--no-valkey")) return false;
  return !(process.argv.includes("--valkey=unless-url") && hasValkeyUrl());
}

/** Bun reads .env by itself, Node does not: a VALKEY_URL there counts as well. */
function hasValkeyUrl() {
  if (process.env.VALKEY_URL) return true;
  const file = join(root, ".env");
  return existsSync(file) && /^\s*(export\s+)?VALKEY_URL\s*=\s*\S/m.test(readFileSync(file, "utf8"));
}

async function setUpValkey() {
  const { findServer, installServer } = await import("./install-valkey.mjs");
  const found = await findServer();
  if (found === "redis-server") say("no valkey-server here: using redis-server, which works too");
  if (found) return;
  const reason = process.env.FLUXHOOK_NO_INSTALL === "1" ? "FLUXHOOK_NO_INSTALL=1 is set" : await installServer(say);
  if (reason === undefined) return;
  if (reason === "interrupted") throw new SetupError(reason);
  const url = "Or set VALKEY_URL to a Valkey that is already running: npm start then uses that one.";
  throw new SetupError(
    `no Valkey on this machine, and none could be installed (${reason}).\n` +
      "Install valkey-server 7.2 or newer, or redis-server 7 or newer, so that it is on PATH, and run this again." +
      (process.argv.includes("--valkey=unless-url") ? `\n${url}` : ""),
  );
}

async function setUpChromium() {
  const { findChromium, installChromium } = await import("./install-chromium.mjs");
  if (findChromium()) return;
  const reason = process.env.FLUXHOOK_NO_INSTALL === "1" ? "FLUXHOOK_NO_INSTALL=1 is set" : await installChromium(say);
  if (reason === undefined) return;
  if (reason === "interrupted") throw new SetupError(reason);
  throw new SetupError(
    `no Chromium on this machine, and none could be installed (${reason}).\n` +
      "Install chromium or Google Chrome, so that it is on PATH, and run this again.",
  );
}

/** Without them their tests are skipped, and said to be: no reason to stop. */
async function setUpEgressProxies() {
  const { findMissingProxies, installEgressProxies } = await import("./install-egress-proxies.mjs");
  if (findMissingProxies().length === 0) return;
  const reason =
    process.env.FLUXHOOK_NO_INSTALL === "1" ? "FLUXHOOK_NO_INSTALL=1 is set" : await installEgressProxies(say);
  if (reason === "interrupted") throw new SetupError(reason);
  if (reason !== undefined) say(`the tests with ${findMissingProxies().join(" and ")} will be skipped (${reason})`);
}
