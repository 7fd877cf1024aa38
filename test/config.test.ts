import { describe, expect, test } from "bun:test";
import { X509Certificate } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { DEFAULT_BODY_BYTES } from "../src/delivery/limits.ts";
import { parseNetwork } from "../src/dns/address.ts";
import { EVENT_TYPES } from "../src/events.ts";
import { loadConfig } from "../src/settings/config.ts";
import { SETTINGS } from "../src/settings/table.ts";

type Env = Record<string, string | undefined>;
const root = join(import.meta.dir, "..");
const SECRET = "s3cr3t-that-must-not-leak";
const KEY = Buffer.alloc(32, 7).toString("base64");

function configOf(env: Env) {
  const loaded = loadConfig(env);
  if (!loaded.ok) throw new Error(loaded.problems.join("\n"));
  return loaded.config;
}

/** So many event types. */
const many = (count: number) => Array.from({ length: count }, (_, index) => `type.${index}`).join(",");

function problemsOf(env: Env): string[] {
  const loaded = loadConfig(env);
  return loaded.ok ? [] : loaded.problems;
}

describe("the defaults", () => {
  const defaults = {
    valkeyUrl: "redis://127.0.0.1:6379",
    shards: [{ index: 0, queue: "webhooks", url: "redis://127.0.0.1:6379", tag: "", label: "" }],
    queue: "webhooks",
    events: new Set(EVENT_TYPES),
    concurrency: 256,
    endpointConcurrency: 64,
    timeoutMs: 10_000,
    retryDelaysMs: [5_000, 60_000, 300_000, 1_800_000, 7_200_000, 18_000_000, 36_000_000],
    maxAgeMs: 3 * 24 * 60 * 60 * 1000,
    maxBacklog: 1_000_000,
    missedMax: 1_000,
    maxEndpoints: 50,
    allowPlain: false,
    registry: false,
    disableAfterMs: 5 * 24 * 60 * 60 * 1000,
    notices: false,
    noticeUrl: undefined,
    noticeSecret: undefined,
    maxBodyBytes: DEFAULT_BODY_BYTES, // as of the package
    logSize: 10,
    logAgeMs: 7 * 24 * 60 * 60 * 1000,
    keepResponseBytes: 1024,
    showResponse: false,
    keepCompleted: 1_000,
    keepFailed: 10_000,
    allowNetworks: [],
    denyNetworks: [],
    allowPorts: [],
    requireHttps: false,
    ca: undefined,
    proxy: undefined,
    proxyResolves: false,
    dnsServers: [],
    secretKeys: [],
    workerHost: "127.0.0.1",
    workerPort: 9464,
    boardHost: "127.0.0.1",
    boardPort: 3000,
    boardUser: "admin",
    boardPassword: undefined,
    boardEnvironment: "",
    boardReadonly: false,
    boardTrustProxy: [],
    tracingShare: 0,
    shutdownTimeoutMs: 20_000,
    logLevel: "info",
  };

  test("are those of the design", () => {
    expect(configOf({})).toEqual(defaults as never);
  });

  test("also stand for empty variables", () => {
    expect(configOf(Object.fromEntries(Object.values(SETTINGS).map(({ name }) => [name, ""])))).toEqual(
      defaults as never,
    );
  });

  test("leave an endpoint a quarter of the concurrency, at least one", () => {
    const quarterOf = (concurrency: string) => configOf({ WEBHOOK_CONCURRENCY: concurrency }).endpointConcurrency;
    expect(["1", "3", "4", "7", "8", "1000"].map(quarterOf)).toEqual([1, 1, 1, 1, 2, 250]);
  });
});

describe("takes", () => {
  test.each<[string, string, keyof ReturnType<typeof configOf>, unknown]>([
    [
      "VALKEY_URL",
      "rediss://user:p%40ss@valkey.internal:6380/3",
      "valkeyUrl",
      "rediss://user:p%40ss@valkey.internal:6380/3",
    ],
    ["WEBHOOK_QUEUE", "{wh0}", "queue", "{wh0}"],
    [
      "WEBHOOK_EVENTS",
      "invoice.paid, org_1.user-Added,7",
      "events",
      new Set(["invoice.paid", "org_1.user-Added", "7"]),
    ],
    ["WEBHOOK_EVENTS", many(500), "events", new Set(many(500).split(","))],
    ["WEBHOOK_CONCURRENCY", "1", "concurrency", 1],
    ["WEBHOOK_CONCURRENCY", "10000", "concurrency", 10_000],
    ["WEBHOOK_ENDPOINT_CONCURRENCY", "256", "endpointConcurrency", 256],
    ["WEBHOOK_TIMEOUT", "100ms", "timeoutMs", 100],
    ["WEBHOOK_TIMEOUT", "60s", "timeoutMs", 60_000],
    ["WEBHOOK_TIMEOUT", "1m", "timeoutMs", 60_000],
    ["WEBHOOK_RETRY_DELAYS", "250ms", "retryDelaysMs", [250]],
    ["WEBHOOK_RETRY_DELAYS", "1ms, 2s ,3m,4h,1d", "retryDelaysMs", [1, 2_000, 180_000, 14_400_000, 86_400_000]],
    [
      "WEBHOOK_ALLOW_PORTS",
      "443, 8000-8999,1-65535",
      "allowPorts",
      [
        [443, 443],
        [8000, 8999],
        [1, 65_535],
      ],
    ],
    ["WEBHOOK_LOG_SIZE", "1000", "logSize", 1_000],
    ["WEBHOOK_LOG_AGE", "365d", "logAgeMs", 365 * 24 * 60 * 60 * 1000],
    ["WEBHOOK_KEEP_RESPONSE", "0", "keepResponseBytes", 0],
    ["WEBHOOK_KEEP_RESPONSE", "16kb", "keepResponseBytes", 16 * 1024],
    ["WEBHOOK_SHOW_RESPONSE", "1", "showResponse", true],
    ["WEBHOOK_KEEP_COMPLETED", "1000000", "keepCompleted", 1_000_000],
    ["WEBHOOK_KEEP_FAILED", "1", "keepFailed", 1],
    ["WEBHOOK_REQUIRE_HTTPS", "1", "requireHttps", true],
    ["WEBHOOK_MAX_ENDPOINTS", "1000", "maxEndpoints", 1_000],
    ["WEBHOOK_ALLOW_PLAIN", "1", "allowPlain", true],
    ["WEBHOOK_DISABLE_AFTER", "0", "disableAfterMs", 0],
    ["WEBHOOK_DISABLE_AFTER", "365d", "disableAfterMs", 365 * 24 * 60 * 60 * 1000],
    ["WEBHOOK_NOTICES", "1", "notices", true],
    ["WEBHOOK_PROXY", "http://proxy.internal:3128", "proxy", new URL("http://proxy.internal:3128")],
    ["WEBHOOK_PROXY", "https://u:p%40ss@[fd00::1]/", "proxy", new URL("https://u:p%40ss@[fd00::1]/")],
    ["WEBHOOK_PROXY_RESOLVES", "1", "proxyResolves", true],
    ["WEBHOOK_SECRET_KEYS", `${KEY},${KEY}`, "secretKeys", [Buffer.alloc(32, 7), Buffer.alloc(32, 7)]],
    ["WORKER_PORT", "0", "workerPort", 0],
    ["BOARD_PORT", "65535", "boardPort", 65_535],
    ["BOARD_USER", "ops", "boardUser", "ops"],
    ["BOARD_PASSWORD", "pa:ss wö", "boardPassword", "pa:ss wö"],
    ["BOARD_ENVIRONMENT", "staging", "boardEnvironment", "staging"],
    ["BOARD_READONLY", "1", "boardReadonly", true],
    ["BOARD_TRUST_PROXY", "10.0.0.1, fd00::/8", "boardTrustProxy", ["10.0.0.1", "fd00::/8"].map(parseNetwork)],
    ["BOARD_READONLY", "0", "boardReadonly", false],
    ["WEBHOOK_TRACING", "1", "tracingShare", 1],
    ["WEBHOOK_TRACING", "0.01", "tracingShare", 0.01],
    ["SHUTDOWN_TIMEOUT", "0s", "shutdownTimeoutMs", 0],
    ["SHUTDOWN_TIMEOUT", "10m", "shutdownTimeoutMs", 600_000],
    ["LOG_LEVEL", "silent", "logLevel", "silent"],
  ])("%s=%s", (name, value, key, expected) => {
    expect(configOf({ [name]: value })[key]).toEqual(expected as never);
  });

  test("networks, one or more", () => {
    const { allowNetworks } = configOf({ WEBHOOK_ALLOW_NETWORKS: "10.0.0.0/8, fd00::/8,127.0.0.1" });
    expect(allowNetworks.map(([base, bits]) => `${base}/${bits}`)).toEqual(["10.0.0.0/8", "fd00::/8", "127.0.0.1/32"]);
  });

  test("a file of certificates, without what else stands in it", () => {
    const [ca, right] = ["ca.pem", "right.pem"].map((name) =>
      readFileSync(join(import.meta.dir, "support", name), "utf8"),
    );
    const path = join(mkdtempSync(join(tmpdir(), "fluxhook-config-")), "bundle.pem");
    writeFileSync(path, `# ours\n${ca}\n${right}`);
    const { ca: authorities = "" } = configOf({ WEBHOOK_CA_FILE: path });
    rmSync(dirname(path), { recursive: true });
    const each = authorities.split(/(?<=END CERTIFICATE-----)\n/);
    expect(each.map((pem) => new X509Certificate(pem).subject)).toEqual(["CN=Fluxhook test CA", "CN=receiver.test"]);
    expect(authorities).not.toContain("PRIVATE");
  });

  test("a board on another address once there is a password", () => {
    expect(configOf({ BOARD_HOST: "0.0.0.0", BOARD_PASSWORD: "12345678" }).boardHost).toBe("0.0.0.0");
  });

  test.each(["127.0.0.1", "127.8.8.8", "::1", "localhost"])("a board on %s without a password", (host) => {
    expect(configOf({ BOARD_HOST: host }).boardHost).toBe(host);
  });
});

describe("refuses", () => {
  test.each<[string, string[]]>([
    ["VALKEY_URL", ["127.0.0.1:6379", "http://h", "redis", "redis:h", "redis:6379", "unix:///tmp/x", "redis://h:x"]],
    ["WEBHOOK_QUEUE", ["a:b", "a b", "x".repeat(101), "ü", "a\n"]],
    [
      "WEBHOOK_EVENTS",
      [",", "a,", "a,a", "a, b ,a", "a b", "a:b", "größe", ".a", "_a", "a\r\nb", "x".repeat(129), many(501)],
    ],
    ["WEBHOOK_CONCURRENCY", ["0", "-1", "1.5", "1e3", "ten", " 8", "10001", "0x10", "99999999999"]],
    ["WEBHOOK_ENDPOINT_CONCURRENCY", ["0", "-1", "half", "10001"]],
    ["WEBHOOK_TIMEOUT", ["ten", "10", "99ms", "61s", "2m", "-1s", "1.5s", "10 s", "10S", "1h", "0s", "s"]],
    [
      "WEBHOOK_RETRY_DELAYS",
      [",", "5s,", "5s,,1m", "5s 1m", "0s", "25h", "5s,ten", "5s;1m", Array(51).fill("1s").join()],
    ],
    ["WEBHOOK_LOG_SIZE", ["0", "1001", "-1", "ten"]],
    ["WEBHOOK_LOG_AGE", ["0", "59s", "366d", "7"]],
    ["WEBHOOK_KEEP_RESPONSE", ["1", "17kb", "16385b", "-1kb", "1 kb", "00"]],
    ["WEBHOOK_SHOW_RESPONSE", ["2", "yes"]],
    ["WEBHOOK_KEEP_COMPLETED", ["0", "1000001", "all"]],
    ["WEBHOOK_KEEP_FAILED", ["0", "1000001", "all"]],
    ["WEBHOOK_DNS_SERVERS", ["dns.example", "10.0.0.2:0", "10.0.0.2;10.0.0.3", ","]],
    ["WEBHOOK_ALLOW_NETWORKS", ["10/8", "10.0.0.0/33", "example.com", "10.0.0.0/8;fd00::/8", "*", ",", "010.0.0.0/8"]],
    ["WEBHOOK_DENY_NETWORKS", ["10/8", "example.com", ",", "::ffff:10.0.0.0/104"]],
    ["WEBHOOK_ALLOW_PORTS", ["0", "65536", "https", "443-", "-443", "8999-8000", "443;80", "443,", "080000", "1 - 2"]],
    ["WEBHOOK_REQUIRE_HTTPS", ["2", "yes"]],
    ["WEBHOOK_MAX_ENDPOINTS", ["0", "1001", "all"]],
    ["WEBHOOK_ALLOW_PLAIN", ["2", "yes"]],
    ["WEBHOOK_DISABLE_AFTER", ["366d", "5", "-1d", "never"]],
    ["WEBHOOK_NOTICES", ["2", "yes"]],
    ["WEBHOOK_NOTICE_URL", ["ops.example", "ftp://ops.example/", "https://u:p@ops.example/"]],
    ["WEBHOOK_NOTICE_SECRET", [" s3cret-of-ours", "whsec_!", `"quoted-secret"`]],
    ["WEBHOOK_CA_FILE", ["/nowhere/ca.pem", "/dev/null", import.meta.dir, import.meta.path]],
    [
      "WEBHOOK_PROXY",
      [
        "proxy.internal:3128",
        "socks5://proxy",
        "http:proxy",
        "http://",
        "http://p/path",
        "http://p?",
        "http://p:0",
        "http://u:%zz@p",
      ],
    ],
    ["WEBHOOK_PROXY_RESOLVES", ["2", "yes"]],
    ["WEBHOOK_SECRET_KEYS", ["short", KEY.slice(1), `${KEY}=`, `${KEY},`, Buffer.alloc(31).toString("base64")]],
    ["WORKER_PORT", ["-1", "65536", "http", "80.5"]],
    ["BOARD_PORT", ["-1", "65536", "http", "80.5"]],
    ["BOARD_USER", ["a:b", "x".repeat(101)]],
    ["BOARD_PASSWORD", ["x", "1234567"]],
    ["BOARD_ENVIRONMENT", ["x".repeat(41)]],
    ["BOARD_READONLY", ["2", "yes", "on", "01", "TRUE"]],
    ["BOARD_TRUST_PROXY", ["proxy.internal", "10.0.0.0/33", "*", "1", "10.0.0.1:80"]],
    ["WEBHOOK_TRACING", ["2", "1.5", "-1", "yes", "1e-3", ".", "0.", "10%"]],
    ["SHUTDOWN_TIMEOUT", ["11m", "20", "-1s", "forever"]],
    ["LOG_LEVEL", ["verbose", "INFO", "30"]],
  ])("%s=%j", (name, values) => {
    for (const value of values) {
      const problems = problemsOf({ [name]: value });
      expect(problems).toHaveLength(1);
      expect(problems[0]).toStartWith(`expected ${name} to be `);
    }
  });

  test("with the setting, what was expected and what was there", () => {
    expect(problemsOf({ WEBHOOK_TIMEOUT: "ten" })).toEqual([
      'expected WEBHOOK_TIMEOUT to be a duration of 100ms to 60s, got "ten"',
    ]);
    expect(problemsOf({ LOG_LEVEL: 'a"\n' })).toEqual([
      'expected LOG_LEVEL to be one of fatal, error, warn, info, debug, trace, silent, got "a\\"\\n"',
    ]);
  });

  test("all that is wrong at once, in the order of the settings", () => {
    const problems = problemsOf({
      LOG_LEVEL: "loud",
      BOARD_PORT: "http",
      WEBHOOK_RETRY_DELAYS: "soon",
      VALKEY_URL: "localhost",
      BOARD_HOST: "0.0.0.0",
    });
    expect(problems.map((problem) => problem.split(" ")[1])).toEqual([
      "VALKEY_URL",
      "WEBHOOK_RETRY_DELAYS",
      "BOARD_PORT",
      "LOG_LEVEL",
      "BOARD_PASSWORD",
    ]);
  });

  test("every setting at once without throwing", () => {
    const junk = Object.fromEntries(Object.values(SETTINGS).map(({ name }) => [name, "\u0000 ".repeat(300)]));
    expect(problemsOf(junk).length).toBeGreaterThan(10);
  });

  test("a damaged certificate, and says which file has it", () => {
    const path = join(mkdtempSync(join(tmpdir(), "fluxhook-config-")), "bundle.pem");
    writeFileSync(path, readFileSync(join(import.meta.dir, "support/ca.pem"), "utf8").replace("MII", "MIA"));
    const problems = problemsOf({ WEBHOOK_CA_FILE: path });
    rmSync(dirname(path), { recursive: true });
    expect(problems).toEqual([
      `expected WEBHOOK_CA_FILE to be a readable file of certificates in PEM, got "${path}", in which a certificate is damaged`,
    ]);
  });

  test("a file of certificates that cannot be read or holds none, and says why", () => {
    const reasonOf = (path: string) => problemsOf({ WEBHOOK_CA_FILE: path })[0]?.split(", got ")[1];
    expect(reasonOf("/nowhere/ca.pem")).toBe('"/nowhere/ca.pem", which cannot be read (ENOENT)');
    expect(reasonOf("/tmp")).toBe('"/tmp", which cannot be read (EISDIR)');
    expect(reasonOf("/dev/null")).toBe('"/dev/null", which holds no certificate');
  });

  test("an endpoint's share above the whole, and says which setting has it", () => {
    expect(problemsOf({ WEBHOOK_CONCURRENCY: "8", WEBHOOK_ENDPOINT_CONCURRENCY: "9" })).toEqual([
      'expected WEBHOOK_ENDPOINT_CONCURRENCY to be at most WEBHOOK_CONCURRENCY (8), got "9"',
    ]);
  });

  test.each([
    "0.0.0.0",
    "::",
    "192.168.0.1",
    "board.internal",
    "localhost.example.com",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "127.0.0.1.nip.io",
  ])("a board on %s without a password", (host) => {
    expect(problemsOf({ BOARD_HOST: host })).toEqual([
      `expected BOARD_PASSWORD to be set, since BOARD_HOST ("${host}") is not a loopback address, got nothing`,
    ]);
  });

  test("a URL for notices without the secret that signs them, and the secret without the URL", () => {
    expect(problemsOf({ WEBHOOK_NOTICE_URL: "https://ops.example/hook" })).toEqual([
      "expected WEBHOOK_NOTICE_SECRET to be set, since WEBHOOK_NOTICE_URL is, got nothing",
    ]);
    expect(problemsOf({ WEBHOOK_NOTICE_SECRET: SECRET })).toEqual([
      "expected WEBHOOK_NOTICE_URL to be set, since WEBHOOK_NOTICE_SECRET is, got nothing",
    ]);
  });

  test("without printing a secret", () => {
    const problems = problemsOf({
      VALKEY_URL: `valkey://user:${SECRET}@host`,
      WEBHOOK_PROXY: `socks5://user:${SECRET}@host`,
      WEBHOOK_SECRET_KEYS: `${KEY},${SECRET}`,
      BOARD_HOST: "0.0.0.0",
    });
    expect(problems).toEqual([
      "expected VALKEY_URL to be a redis://, rediss://, redis+sentinel:// or redis+cluster:// URL, as in redis://user:password@host:6379/0, or several separated by blanks, got something else",
      "expected WEBHOOK_PROXY to be an http:// or https:// URL of a proxy, as in http://user:password@proxy.internal:3128, got something else",
      "expected WEBHOOK_SECRET_KEYS to be keys of 32 bytes in base64, comma-separated, got something else",
      'expected BOARD_PASSWORD to be set, since BOARD_HOST ("0.0.0.0") is not a loopback address, got nothing',
    ]);
  });
});

test("a worker with three bad settings names them on stderr and exits with 78, without a stack trace", () => {
  const cwd = mkdtempSync(join(tmpdir(), "fluxhook-config-")); // Bun would read a .env of ours
  const { exitCode, stdout, stderr } = Bun.spawnSync([process.execPath, join(root, "src/worker.ts")], {
    cwd,
    env: { PATH: process.env.PATH, WEBHOOK_TIMEOUT: "ten", WORKER_PORT: "http", VALKEY_URL: `${SECRET}` },
    timeout: 10_000,
  });
  rmSync(cwd, { recursive: true });
  expect(stderr.toString()).toBe(
    [
      "fluxhook: expected VALKEY_URL to be a redis://, rediss://, redis+sentinel:// or redis+cluster:// URL, as in redis://user:password@host:6379/0, or several separated by blanks, got something else",
      'fluxhook: expected WEBHOOK_TIMEOUT to be a duration of 100ms to 60s, got "ten"',
      'fluxhook: expected WORKER_PORT to be a port from 0 to 65535, got "http"',
      "",
    ].join("\n"),
  );
  expect(stdout.toString()).toBe("");
  expect(exitCode).toBe(78);
});

describe("the settings are told the same way in", () => {
  const settings = Object.values(SETTINGS);

  test("docs/settings.md: names, defaults, meanings and what is expected, in order", () => {
    const rows = readFileSync(join(root, "docs/settings.md"), "utf8")
      .split("\n")
      .filter((line) => /^\| [A-Z]/.test(line))
      .map((line) => line.slice(2, -2).split(" | "));
    expect(rows).toEqual(
      settings.map((setting) => [
        setting.name,
        setting.default === "" ? "(unset)" : `\`${setting.default}\``,
        setting.meaning,
        setting.expected,
      ]),
    );
  });

  test(".env.example: each commented out with its default, under its meaning, in order", () => {
    const text = readFileSync(join(root, ".env.example"), "utf8");
    const entries = [...text.matchAll(/^# (.+)\n#([A-Z_]+)=(.*)$/gm)].map((match) => match.slice(1));
    expect(entries).toEqual(settings.map(({ name, default: value, meaning }) => [meaning, name, value]));
    expect(text.split("\n").filter((line) => /^[^#]/.test(line))).toEqual([]);
  });

  test("the defaults that the settings themselves accept", () => {
    expect(problemsOf(Object.fromEntries(settings.map((setting) => [setting.name, setting.default])))).toEqual([]);
  });
});
