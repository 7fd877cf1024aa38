import { afterAll, describe, expect, test } from "bun:test";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import manifest from "../package.json";
import { buildBackports, parseDeb822, parseOneLine } from "../scripts/apt-sources.mjs";
import { chooseInstaller, parseMajorVersion, summariseFailure } from "../scripts/install-valkey.mjs";

const deb822 = `
# a comment
Types: deb deb-src
# another, inside the stanza
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Enabled: no
Types: deb
URIs: http://disabled.example/debian
Suites: bookworm
Components: main
`;

describe("the machine's apt sources", () => {
  test("are read from the deb822 form, without disabled ones", () => {
    const sources = parseDeb822(deb822);
    expect(sources.map(({ uris }) => uris)).toEqual([
      ["http://mirror.example/debian"],
      ["http://mirror.example/debian-security"],
    ]);
    expect(sources[0]).toEqual({
      types: ["deb", "deb-src"],
      uris: ["http://mirror.example/debian"],
      suites: ["bookworm", "bookworm-updates"],
      components: ["main", "contrib"],
      fields: { "signed-by": "/usr/share/keyrings/debian-archive-keyring.gpg" },
    });
  });

  test.each([
    ["deb http://mirror.example/debian bookworm main", {}],
    [
      "deb [signed-by=/k.gpg arch=amd64,arm64] http://mirror.example/debian bookworm main # note",
      { "signed-by": "/k.gpg", architectures: "amd64 arm64" },
    ],
    ["  deb [ check-valid-until=no ] http://mirror.example/debian   bookworm  main", { "check-valid-until": "no" }],
  ])("are read from the one-line form: %s", (line, fields) => {
    expect(parseOneLine(`# deb http://commented.example x main\n\n${line}\n`)).toEqual([
      { types: ["deb"], uris: ["http://mirror.example/debian"], suites: ["bookworm"], components: ["main"], fields },
    ]);
  });

  test.each(["", "# nothing", "deb", "Types: deb\n", "\n\n\n", "rpm http://x y z"])("never throw: %j", (text) => {
    expect(parseOneLine(text)).toEqual([]);
    expect(parseDeb822(text)).toEqual([]);
  });
});

describe("the backports entry", () => {
  test("takes mirror, key and options from the release's own entry", () => {
    expect(buildBackports(parseDeb822(deb822), "bookworm")).toBe(
      "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm-backports\nComponents: main\n" +
        "signed-by: /usr/share/keyrings/debian-archive-keyring.gpg\n",
    );
    const line = "deb [trusted=yes check-valid-until=no] file:/srv/debian stable main";
    expect(buildBackports(parseOneLine(line), "bookworm")).toBe(
      "Types: deb\nURIs: file:/srv/debian\nSuites: bookworm-backports\nComponents: main\n" +
        "trusted: yes\ncheck-valid-until: no\n",
    );
  });

  test("keeps an embedded key whole", () => {
    const key = "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mDMEY865UxYJ\n -----END PGP PUBLIC KEY BLOCK-----";
    const text = `Types: deb\nURIs: http://m.example/\nSuites: trixie\nComponents: main\nSigned-By:${key}\n`;
    expect(buildBackports(parseDeb822(text), "trixie")).toContain(`signed-by: ${key}\n`);
  });

  test.each([
    ["no source at all", ""],
    ["only sources of others", "deb http://other.example/apt nodistro main"],
    ["only the security suite", "deb http://mirror.example/debian-security bookworm-security main"],
    ["only source packages", "deb-src http://mirror.example/debian bookworm main"],
  ])("is not made up from %s", (_, text) => {
    expect(buildBackports(parseOneLine(text), "bookworm")).toBeUndefined();
  });
});

test.each([
  [["apt-get"], { isRoot: true, hasSudo: false }, { manager: "apt-get", prefix: [] }],
  [["apt-get"], { isRoot: false, hasSudo: true }, { manager: "apt-get", prefix: ["sudo", "-n"] }],
  [["apt-get"], { isRoot: false, hasSudo: false }, { reason: "apt-get needs root, or sudo without a password" }],
  [["brew"], { isRoot: false, hasSudo: false }, { manager: "brew", prefix: [] }],
  [["brew", "apt-get"], { isRoot: true, hasSudo: false }, { manager: "apt-get", prefix: [] }],
  [["dnf"], { isRoot: true, hasSudo: false }, { manager: "dnf", prefix: [] }],
  [["apk"], { isRoot: true, hasSudo: false }, { manager: "apk", prefix: [] }],
  [[], { isRoot: true, hasSudo: true }, { reason: "none of apt-get, Homebrew, dnf and apk is usable here" }],
])("chooses among %j as %j", (programs: string[], rights, expected) => {
  expect<object>(chooseInstaller({ has: (program) => programs.includes(program), ...rights })).toEqual(expected);
});

test.each([
  ["Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64 build=1", 7],
  ["Redis server v=6.0.16 sha=00000000:0", 6],
  ["command not found", undefined],
])("reads the version of %j", (text, major) => {
  expect(parseMajorVersion(text)).toBe(major);
});

test.each([
  [
    "W: Failed to fetch x\nW: Some index files\nE: Unable to locate package y",
    "W: Failed to fetch x; E: Unable to locate package y",
  ],
  ["Reading lists\nE: Could not get lock\n", "E: Could not get lock"],
  ["something else\nNo match\n", "No match"],
  ["", "failed without a message"],
])("sums up %j", (output, line) => {
  expect(summariseFailure(output)).toBe(line);
});

// A copy of the project with a stand-in for Bun, on a PATH that holds Node and what each test adds.
const node = Bun.which("node") ?? "";
const directory = mkdtempSync(join(tmpdir(), "fluxhook-setup-"));
const root = join(import.meta.dir, "..");
const copy = join(directory, "project");
afterAll(() => rmSync(directory, { recursive: true, force: true }));
mkdirSync(join(copy, "node_modules", ".bin"), { recursive: true });
writeFileSync(join(copy, "node_modules", ".bin", "bun"), `#!/bin/sh\necho ${manifest.devDependencies.bun}\n`, {
  mode: 0o755,
});
for (const name of ["package.json", "bun.lock", "scripts"])
  cpSync(join(root, name), join(copy, name), { recursive: true });
let paths = 0;

function runSetup(
  args: string[],
  { programs = {}, env = {} }: { programs?: Record<string, string>; env?: Record<string, string> } = {},
) {
  const bin = join(directory, `bin-${paths++}`);
  mkdirSync(bin);
  symlinkSync(node, join(bin, "node"));
  for (const [name, script] of Object.entries(programs)) writeFileSync(join(bin, name), script, { mode: 0o755 });
  const { exitCode, stdout, stderr } = Bun.spawnSync([node, join(copy, "scripts", "setup.mjs"), ...args], {
    env: { PATH: bin, ...env },
  });
  return { exitCode, stdout: stdout.toString(), stderr: stderr.toString() };
}
const redis = (version: string) => `#!/bin/sh\necho "Redis server v=${version} sha=0"\n`;

describe("setup.mjs as a process, each test on what the one before left", () => {
  test("installs the dependencies once, with the Bun that is there", () => {
    const first = runSetup(["--no-valkey"]);
    const stdout = `setup: installing the dependencies with Bun ${manifest.devDependencies.bun}\n`;
    expect(first).toEqual({ exitCode: 0, stdout, stderr: "" });
    expect(runSetup(["--no-valkey"]).stdout).toBe("");
  });

  test("is silent when nothing is to be done", () => {
    const nothing = { exitCode: 0, stdout: "", stderr: "" };
    expect(runSetup(["--no-valkey"])).toEqual(nothing);
    expect(runSetup([], { programs: { "valkey-server": "#!/bin/sh\n" } })).toEqual(nothing);
    expect(runSetup(["--valkey=unless-url"], { env: { VALKEY_URL: "redis://x" } })).toEqual(nothing);
  });

  test("says in one message what is missing when it may not install", () => {
    const { exitCode, stdout, stderr } = runSetup(["--valkey=unless-url"], { env: { FLUXHOOK_NO_INSTALL: "1" } });
    expect(exitCode).toBe(1);
    expect(stdout).toBe("");
    expect(stderr).toBe(
      "setup: no Valkey on this machine, and none could be installed (FLUXHOOK_NO_INSTALL=1 is set).\n" +
        "Install valkey-server 7.2 or newer, or redis-server 7 or newer, so that it is on PATH, and run this again.\n" +
        "Or set VALKEY_URL to a Valkey that is already running: npm start then uses that one.\n",
    );
  });

  test("does not let VALKEY_URL stand in for the tests' own Valkey", () => {
    const { exitCode, stderr } = runSetup([], { env: { FLUXHOOK_NO_INSTALL: "1", VALKEY_URL: "redis://x" } });
    expect(exitCode).toBe(1);
    expect(stderr).not.toContain("VALKEY_URL");
  });

  test("takes a recent Redis and says so, and no old one", () => {
    const env = { FLUXHOOK_NO_INSTALL: "1" };
    expect(runSetup([], { env, programs: { "redis-server": redis("7.0.15") } })).toEqual({
      exitCode: 0,
      stdout: "setup: no valkey-server here: using redis-server, which works too\n",
      stderr: "",
    });
    expect(runSetup([], { env, programs: { "redis-server": redis("6.0.16") } }).exitCode).toBe(1);
  });

  test("wants a Chromium only when asked to, by whichever name it goes", () => {
    const env = { FLUXHOOK_NO_INSTALL: "1" };
    const options = ["--no-valkey", "--chromium"];
    if (!existsSync("/Applications")) {
      const { exitCode, stderr } = runSetup(options, { env });
      expect(exitCode).toBe(1);
      expect(stderr).toBe(
        "setup: no Chromium on this machine, and none could be installed (FLUXHOOK_NO_INSTALL=1 is set).\n" +
          "Install chromium or Google Chrome, so that it is on PATH, and run this again.\n",
      );
    }
    for (const name of ["chromium", "chromium-browser", "google-chrome"]) {
      const found = runSetup(options, { env, programs: { [name]: "#!/bin/sh\n" } });
      expect(found).toEqual({ exitCode: 0, stdout: "", stderr: "" });
    }
  });

  test("installs Chromium with apt where there is none", () => {
    const log = join(directory, "apt.log");
    const aptGet = `#!/bin/sh\necho "$@" >> ${log}\ncase "$*" in *install*) printf '#!/bin/sh\\n' > "\${0%/*}/chromium"; /bin/chmod 755 "\${0%/*}/chromium";; esac\n`;
    const env = '#!/bin/sh\nwhile :; do case "$1" in *=*) shift;; *) break;; esac; done\nexec "$@"\n';
    const through = (program: string) => `#!/bin/sh\nexec /bin/${program} "$@"\n`;
    const programs = {
      "apt-get": aptGet,
      env,
      rm: through("rm"),
      install: "#!/bin/sh\n",
      sudo: '#!/bin/sh\nshift; exec "$@"\n',
      true: "#!/bin/sh\n",
    };
    const { exitCode, stdout, stderr } = runSetup(["--no-valkey", "--chromium"], { programs });
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: "" });
    expect(stdout).toBe("setup: installing chromium with apt-get (FLUXHOOK_NO_INSTALL=1 forbids it)\n");
    expect(readFileSync(log, "utf8")).toMatch(/ install --yes --no-install-recommends chromium fonts-liberation\n$/);
  });

  test("shows what the installer said when the dependencies cannot be installed", () => {
    writeFileSync(join(copy, "package.json"), '{ "devDependencies": { "bun": "0.0.0" } }');
    const { exitCode, stderr } = runSetup(["--no-valkey"], { programs: { npx: "#!/bin/sh\necho no route; exit 7\n" } });
    expect(exitCode).toBe(1);
    expect(stderr).toContain("installing the dependencies failed. What the installer said:\n\nno route\n");
    expect(stderr).not.toContain("    at ");
  });
});
