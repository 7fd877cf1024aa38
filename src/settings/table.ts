/**
 * The table of settings: names, defaults, allowed values. Tests compare docs and `.env.example` with it. Pure.
 */

import { z } from "zod";
import { EVENT_TYPE, EVENT_TYPE_FORM, MAX_BODY_BYTES, MAX_EVENT_TYPES } from "../delivery/limits.ts";
import { EVENT_TYPES } from "../events.ts";
import { isQueueName, QUEUE_NAME_FORM } from "../queue/layout.ts";
import { MAX_SHARDS } from "../queue/shards.ts";
import { VALKEY_URL_FORMS } from "../valkey/url.ts";
import { ENDPOINT_SETTINGS } from "./endpoints.ts";
import { RETENTION_SETTINGS } from "./retention.ts";
import { type Setting, setting } from "./setting.ts";
import {
  drainUrl,
  durationMs,
  flag,
  host,
  integer,
  key,
  list,
  nameServer,
  network,
  parsedBy,
  parseProxyUrl,
  portRange,
  size,
  text,
  valkeyUrls,
} from "./values.ts";

export type { Setting };

const MINUTE_MS = 60 * 1000;
const DAY_MS = 24 * 60 * MINUTE_MS;
const PROXY_URL_FORM = "an http:// or https:// URL of a proxy, as in http://user:password@proxy.internal:3128";
const MIN_PASSWORD = 8; // characters: shorter ones can be guessed even at the login's rate limit
const LOG_LEVELS = ["fatal", "error", "warn", "info", "debug", "trace", "silent"] as const;

/** All settings, in the order of the docs. */
export const SETTINGS = {
  valkeyUrls: setting(
    "VALKEY_URL",
    "redis://127.0.0.1:6379",
    valkeyUrls,
    `${VALKEY_URL_FORMS}, or several separated by blanks`,
    "`rediss://` for TLS; user, password and database in the URL; `redis+sentinel://a:26379,b:26379/mymaster` asks Sentinels; `redis+cluster://a,b,c` is a cluster; several URLs are one shard each",
    { isSecret: true },
  ),
  shardCount: setting(
    "WEBHOOK_SHARDS",
    "1",
    integer(1, MAX_SHARDS),
    `a whole number from 1 to ${MAX_SHARDS}`,
    "parts of the queue: in a cluster as many as you like, otherwise one for each URL in `VALKEY_URL`",
  ),
  shardsBefore: setting(
    "WEBHOOK_SHARDS_BEFORE",
    "",
    integer(1, MAX_SHARDS).optional() as z.ZodType<number | undefined, string>,
    `a whole number from 1 to ${MAX_SHARDS}`,
    "after a change of `WEBHOOK_SHARDS`, its value before, until `fluxhook endpoints rehome` has moved all registered endpoints; shards beyond the new number are served and read until then",
  ),
  drainUrl: setting(
    "WEBHOOK_DRAIN_URL",
    "",
    drainUrl,
    "a redis://, rediss:// or redis+sentinel:// URL, as VALKEY_URL was",
    "after a move into a cluster: the Valkey before, whose events are still delivered and whose logs are still read",
    { isSecret: true },
  ),
  queue: setting(
    "WEBHOOK_QUEUE",
    "webhooks",
    z.string().refine(isQueueName),
    QUEUE_NAME_FORM,
    "the queue's name, under BullMQ's default key prefix",
  ),
  events: setting(
    "WEBHOOK_EVENTS",
    EVENT_TYPES.join(","),
    list(z.string().regex(EVENT_TYPE), MAX_EVENT_TYPES)
      .refine((names) => names.length > 0 && new Set(names).size === names.length)
      .transform((names): ReadonlySet<string> => new Set(names)),
    `up to ${MAX_EVENT_TYPES} different event types, separated by commas, each of ${EVENT_TYPE_FORM}`,
    "the event types; an event of any other type fails immediately",
  ),
  concurrency: setting(
    "WEBHOOK_CONCURRENCY",
    "256",
    integer(1, 10_000),
    "a whole number from 1 to 10000",
    "slots per process: attempts in their first tenth of a second; at most eight times as many older ones",
  ),
  endpointConcurrency: setting(
    "WEBHOOK_ENDPOINT_CONCURRENCY",
    "",
    integer(1, 10_000),
    "a whole number from 1 to 10000",
    "maximum attempts in flight to one endpoint; a quarter of `WEBHOOK_CONCURRENCY` when unset",
    { derive: (read) => `${Math.max(1, Math.floor(read("concurrency") / 4))}` },
  ),
  timeoutMs: setting(
    "WEBHOOK_TIMEOUT",
    "10s",
    durationMs(100, MINUTE_MS),
    "a duration of 100ms to 60s",
    "deadline of one attempt, from DNS to the last byte",
  ),
  retryDelaysMs: setting(
    "WEBHOOK_RETRY_DELAYS",
    "5s,1m,5m,30m,2h,5h,10h",
    list(durationMs(1, DAY_MS), 50),
    "up to 50 durations of 1ms to 24h, as in 5s,1m,2h",
    "one delay per retry, each ±20 %; the first attempt has none",
  ),
  maxAgeMs: setting(
    "WEBHOOK_MAX_AGE",
    "3d",
    durationMs(MINUTE_MS, 30 * DAY_MS),
    "a duration of 1m to 30d",
    "how long an event may wait for its endpoint or for workers before it fails as `expired`",
  ),
  maxBacklog: setting(
    "WEBHOOK_MAX_BACKLOG",
    "1000000",
    integer(100, 1_000_000_000),
    "a whole number from 100 to 1000000000",
    "maximum events waiting per endpoint, and per user; beyond it the oldest fail as `backlog_full`",
  ),
  missedMax: setting(
    "WEBHOOK_MISSED_MAX",
    "1000",
    integer(0, 100_000),
    "a whole number from 0 to 100000",
    "maximum events kept for each registered endpoint that missed them; beyond it the oldest are dropped and counted",
  ),
  ...ENDPOINT_SETTINGS,
  maxBodyBytes: setting(
    "WEBHOOK_MAX_BODY",
    "256kb",
    size(1024, MAX_BODY_BYTES),
    "a size of 1kb to 16mb",
    "largest body; a larger event fails immediately",
  ),
  ...RETENTION_SETTINGS,
  allowNetworks: setting(
    "WEBHOOK_ALLOW_NETWORKS",
    "",
    list(network, 100),
    "CIDRs, as in 10.0.0.0/8,fd00::/8",
    "non-public ranges to allow",
  ),
  denyNetworks: setting(
    "WEBHOOK_DENY_NETWORKS",
    "",
    list(network, 100),
    "CIDRs, as in 198.51.100.0/24,2001:db8::/32",
    "ranges to block, such as your own public addresses; overrides `WEBHOOK_ALLOW_NETWORKS`",
  ),
  allowPorts: setting(
    "WEBHOOK_ALLOW_PORTS",
    "",
    list(portRange, 100),
    "ports and ranges of ports, as in 443,8000-8999",
    "ports to allow; all when unset",
  ),
  requireHttps: setting("WEBHOOK_REQUIRE_HTTPS", "0", flag, "0 or 1", "1 allows only `https://` URLs"),
  caFile: setting(
    "WEBHOOK_CA_FILE",
    "",
    text.optional() as z.ZodType<string | undefined, string>,
    "a readable file of certificates in PEM",
    "additional certificate authorities to trust",
  ),
  proxy: setting(
    "WEBHOOK_PROXY",
    "",
    parsedBy(parseProxyUrl).optional() as z.ZodType<URL | undefined, string>,
    PROXY_URL_FORM,
    "proxy for all requests (CONNECT)",
    { isSecret: true },
  ),
  proxyResolves: setting(
    "WEBHOOK_PROXY_RESOLVES",
    "0",
    flag,
    "0 or 1",
    "1 leaves DNS lookups and address checks to the proxy",
  ),
  dnsServers: setting(
    "WEBHOOK_DNS_SERVERS",
    "",
    list(nameServer, 10),
    "addresses of name servers, as in 10.0.0.2,10.0.0.3:5353,[fd00::2]:53",
    "name servers for endpoints' hosts; those in `/etc/resolv.conf` when unset",
  ),
  secretKeys: setting(
    "WEBHOOK_SECRET_KEYS",
    "",
    list(key, 10),
    "keys of 32 bytes in base64, comma-separated",
    "keys that open sealed secrets, current first",
    { isSecret: true },
  ),
  workerHost: setting(
    "WORKER_HOST",
    "127.0.0.1",
    host,
    "a host name or address",
    "address for the worker's health endpoints",
  ),
  workerPort: setting(
    "WORKER_PORT",
    "9464",
    integer(0, 65_535),
    "a port from 0 to 65535",
    "port for the worker's `/healthz`, `/readyz`, `/metrics`; 0 for any free port",
  ),
  boardHost: setting("BOARD_HOST", "127.0.0.1", host, "a host name or address", "address for the board"),
  boardPort: setting(
    "BOARD_PORT",
    "3000",
    integer(0, 65_535),
    "a port from 0 to 65535",
    "port for the board's pages and API; 0 for any free port",
  ),
  boardUser: setting(
    "BOARD_USER",
    "admin",
    z.string().regex(/^[^:]{1,100}$/),
    "1 to 100 characters without a colon",
    "HTTP Basic on everything but `/healthz` and `/readyz`",
  ),
  boardPassword: setting(
    "BOARD_PASSWORD",
    "",
    z.string().min(MIN_PASSWORD).optional() as z.ZodType<string | undefined, string>,
    `a password of at least ${MIN_PASSWORD} characters`,
    "required when `BOARD_HOST` is not loopback; without it there is no login",
    { isSecret: true },
  ),
  boardEnvironment: setting(
    "BOARD_ENVIRONMENT",
    "",
    z.string().max(40),
    "at most 40 characters",
    "a label shown in Bull Board, as in `staging`",
  ),
  boardReadonly: setting(
    "BOARD_READONLY",
    "0",
    flag,
    "0 or 1",
    "1 disables all actions, on the pages and in Bull Board",
  ),
  boardTrustProxy: setting(
    "BOARD_TRUST_PROXY",
    "",
    list(network, 20),
    "addresses or CIDRs, as in 127.0.0.1,10.0.0.0/8",
    "proxies whose `X-Forwarded-User` and `X-Forwarded-For` are trusted; none when unset",
  ),
  tracingShare: setting(
    "WEBHOOK_TRACING",
    "0",
    z
      .string()
      .regex(/^(0|1|0?\.\d{1,9})$/)
      .transform(Number),
    "a share from 0 to 1, as in 0.01",
    "share of deliveries to trace with OpenTelemetry; the backend's sampling decision wins; 0 loads no tracing code",
  ),
  shutdownTimeoutMs: setting(
    "SHUTDOWN_TIMEOUT",
    "20s",
    durationMs(0, 10 * MINUTE_MS),
    "a duration of 0s to 10m",
    "how long SIGTERM waits for attempts in flight",
  ),
  logLevel: setting("LOG_LEVEL", "info", z.enum(LOG_LEVELS), `one of ${LOG_LEVELS.join(", ")}`, "minimum log level"),
} satisfies Record<string, Setting<unknown>>;

/** A setting's default in an environment, as one would write it; empty when there is none. */
export function defaultOf(setting: Setting<unknown>, env: Readonly<Record<string, string | undefined>>): string {
  return setting.derive?.((key) => readNumber(SETTINGS[key], env)) ?? setting.default;
}

/** What is not understood counts as unset: it is a problem of its own. */
function readNumber(setting: Setting<number>, env: Readonly<Record<string, string | undefined>>): number {
  const given = setting.schema.safeParse(env[setting.name] || setting.default);
  return given.data ?? setting.schema.parse(setting.default);
}
