/**
 * The board's pages and API, without a socket: health, login, Bull Board, the attempts of a user, metrics.
 */
import { Hono, type MiddlewareHandler } from "hono";
import { csrf } from "hono/csrf";
import { HTTPException } from "hono/http-exception";
import { secureHeaders } from "hono/secure-headers";
import type { Registry } from "prom-client";
import { createAttemptLog } from "../log/attempts.ts";
import { joinLogs } from "../log/joined-logs.ts";
import { createHealthRoutes, createMetricsRoutes, type Readiness } from "../monitoring/health.ts";
import { createValkeyCheck } from "../monitoring/readiness.ts";
import { testEventOf } from "../operations/test-event.ts";
import type { OpenShards } from "../queue/open-shard.ts";
import { shardName } from "../queue/shards.ts";
import { within } from "../runtime/deadline.ts";
import type { Logger } from "../runtime/logger.ts";
import { type Config, isLoopback } from "../settings/config.ts";
import { createAttemptsApi } from "./attempts-api.ts";
import { createBullBoardRoutes } from "./bull-board.ts";
import { createEndpointsApi } from "./endpoints-api.ts";
import type { Site } from "./layout.tsx";
import { type BoardLog, createBoardLog } from "./log.ts";
import { createLogin } from "./login.ts";
import { createPageRoutes } from "./page-routes.tsx";
import { needsShards, refuse } from "./refusal.tsx";

const BOARD = "/board";
const STATIC = `${BOARD}/static/`;
const BODY_MS = 10 * 1000; // 10 s for a form with two ids
const buildHeaders = (styles: string[]) =>
  secureHeaders({
    contentSecurityPolicy: {
      defaultSrc: ["'self'"],
      styleSrc: ["'self'", ...styles],
      imgSrc: ["'self'", "data:"],
      fontSrc: ["'self'", "data:"],
      objectSrc: ["'none'"],
      baseUri: ["'self'"],
      formAction: ["'self'"],
      frameAncestors: ["'none'"],
    },
    xFrameOptions: "DENY",
    // With "no-referrer", browsers send `Origin: null` with our own forms, which csrf() has to refuse.
    referrerPolicy: "same-origin",
    // The proxy terminates TLS, and decides about HSTS for its domain.
    strictTransportSecurity: false,
  });
const headers = buildHeaders([]);
const bullBoardHeaders = buildHeaders(["'unsafe-inline'"]); // Bull Board sets styles inline; its scripts are files

/** The settings that the board reads. */
export type BoardConfig = Pick<
  Config,
  | "boardUser"
  | "boardPassword"
  | "boardEnvironment"
  | "boardReadonly"
  | "boardTrustProxy"
  | "timeoutMs"
  | "events"
  | "logSize"
  | "logAgeMs"
  | "keepCompleted"
  | "keepFailed"
> &
  Partial<Pick<Config, "secretKeys" | "allowPlain">>;

export interface BoardAppOptions {
  readonly config: BoardConfig;
  readonly shards: OpenShards;
  readonly registry: Registry;
  readonly logger: Logger;
  /** Epoch ms. */
  readonly now?: () => number;
  /** Monotonic clock, ms. */
  readonly monotonicNow?: () => number;
}

/** The board as a Hono app. `Bun.serve` passes its server as the second argument, which tells the client's address. */
export function createBoardApp(options: BoardAppOptions): Hono {
  const { config, shards, registry, logger, now = Date.now, monotonicNow = () => performance.now() } = options;
  const logs = new Map(shards.map((shard) => [shard, createAttemptLog(shard.valkey, { ...config, tag: shard.tag })]));
  const logOf = (some: OpenShards) => joinLogs(some.flatMap((shard) => logs.get(shard) ?? []));
  const boardLog = createBoardLog({ logger, trustProxy: config.boardTrustProxy });
  const site: Site = {
    environment: config.boardEnvironment,
    isReadonly: config.boardReadonly,
    bullBoard: BOARD,
    shards,
    timeoutMs: config.timeoutMs,
    logSize: config.logSize,
    logAgeMs: config.logAgeMs,
    keepCompleted: config.keepCompleted,
    keepFailed: config.keepFailed,
    testEvent: testEventOf(config.events),
  };
  const app = new Hono();
  app.use((c, next) => (`${c.req.path}/`.startsWith(`${BOARD}/`) ? bullBoardHeaders : headers)(c, next));
  app.use(unstored);
  app.route("/", createHealthRoutes(createReadiness(shards)));

  // Everything below requires the login.
  const { boardUser: user, boardPassword: password } = config;
  app.use(
    password === undefined
      ? loopbackOnly(site, boardLog)
      : createLogin({ user, password, log: boardLog, now: monotonicNow }),
  );
  app.use(csrf(), ownSite, wholeBody);
  app.route("/", createMetricsRoutes(registry));
  const { events: eventTypes, secretKeys = [], allowPlain = false } = config;
  const access = { eventTypes, secretKeys, allowPlain };
  app.route("/", createPageRoutes({ site, shards, logOf, registry: access, boardLog, now }));

  app.route("/", createAttemptsApi({ site, shards, logOf, now }));
  app.route("/", createEndpointsApi({ site, shards }));

  app.get(`${BOARD}/`, (c) => c.redirect(BOARD));
  const present = needsShards(shards, site);
  app.use(`${BOARD}/*`, (c, next) => (c.req.path.startsWith(STATIC) ? next() : present(c, next)));
  app.route(
    BOARD,
    createBullBoardRoutes({
      shards,
      basePath: BOARD,
      environment: config.boardEnvironment,
      isReadonly: config.boardReadonly,
      logger,
      boardLog,
    }),
  );

  answerTrouble(app, site, { logger, boardLog });
  return app;
}

/**
 * Whether every shard is suitable, and gives the board its rights. The board is ready when the first is: a load balancer must not take
 * it away for another, since it shows the rest.
 */
function createReadiness(shards: OpenShards): Readiness {
  const checks = shards.map((shard) => {
    const check = createValkeyCheck({ valkey: shard.valkey, queue: shard.queue, program: "board" });
    return async () => {
      const problems = Object.values(await check()).flat();
      return shard.label === "" ? problems : problems.map((problem) => `shard ${shardName(shard)}: ${problem}`);
    };
  });
  return async () => {
    const found = await Promise.all(checks.map((check) => check()));
    return { problems: found.flat(), isReady: found[0]?.length === 0 };
  };
}

/** Responses to unknown paths, refused requests and errors; none contains an error's own message. */
function answerTrouble(app: Hono, site: Site, { logger, boardLog }: { logger: Logger; boardLog: BoardLog }): void {
  app.notFound((c) =>
    refuse(c, site, {
      status: 404,
      error: "not found",
      title: "Page not found",
      text: "There is no page at this address.",
    }),
  );
  app.onError((error, c) => {
    if (error instanceof HTTPException) {
      if (error.status !== 403) return c.json({ error: error.message }, error.status);
      boardLog.refused(c, "foreign_site");
      return refuse(c, site, {
        status: 403,
        error: "refused: not from this site (a script has to send content-type: application/json)",
        title: "Refused",
        text: "The request came from another site, or from a browser that does not send its origin. Nothing was changed.",
      });
    }
    logger.error({ error: error.name, reason: error.message }, "board.failed");
    return refuse(c, site, {
      status: 500,
      error: "internal error",
      title: "Internal error",
      text: "See board.failed in the board's log for the reason.",
    });
  });
}

/**
 * Without a password, accept only requests to localhost: any web page can point its own host name at this machine (DNS
 * rebinding) and would then share the board's origin.
 */
function loopbackOnly(site: Site, log: BoardLog): MiddlewareHandler {
  return async (c, next) => {
    if (isLoopback(new URL(c.req.url).hostname)) return await next();
    log.refused(c, "not_localhost");
    return await refuse(c, site, {
      status: 403,
      error: "refused: without BOARD_PASSWORD the board answers as localhost only",
      title: "Refused",
      text: "Without BOARD_PASSWORD the board answers as localhost only. Set one to reach it by another name.",
    });
  };
}

/** Responses hold customer data and must not be cached. Static files may. */
const unstored: MiddlewareHandler = async (c, next) => {
  await next();
  if (c.res.headers.has("cache-control") || c.req.path.startsWith(STATIC)) return;
  c.header("cache-control", "no-store");
};

/** Refuse actions from other sites. csrf() checks only what a form can send; browsers name the origin of every action. */
const ownSite: MiddlewareHandler = async (c, next) => {
  const site = c.req.header("sec-fetch-site");
  const origin = c.req.header("origin"); // for older browsers; the scheme may differ behind a TLS proxy
  const isOwn = origin === undefined || URL.parse(origin)?.host === new URL(c.req.url).host;
  const isAction = c.req.method !== "GET" && c.req.method !== "HEAD";
  if (isAction && (site === undefined ? !isOwn : site !== "same-origin")) throw new HTTPException(403);
  await next();
};

/** Read an action's whole body before running it, within 10 s, so that slow clients cannot hold requests open. */
const wholeBody: MiddlewareHandler = async (c, next) => {
  if (c.req.method === "GET" || c.req.method === "HEAD") return await next();
  const body = await within(
    BODY_MS,
    c.req.arrayBuffer().catch(() => "broken"),
    "slow",
  );
  if (body === "broken") throw new HTTPException(400, { message: "incomplete body" });
  if (body === "slow") throw new HTTPException(408, { message: "timed out reading the body" });
  await next();
};
