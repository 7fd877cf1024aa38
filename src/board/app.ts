/**
 * The board's pages and API, without a socket: health, login, Bull Board, the attempts of a user, metrics.
 */
import { Hono, type MiddlewareHandler } from "hono";
import { csrf } from "hono/csrf";
import { HTTPException } from "hono/http-exception";
import { secureHeaders } from "hono/secure-headers";
import type { Registry } from "prom-client";
import { jobData } from "../delivery/contract.ts";
import { createAttemptLog } from "../log/attempts.ts";
import { createHealthRoutes, createMetricsRoutes } from "../monitoring/health.ts";
import { createValkeyCheck } from "../monitoring/readiness.ts";
import type { Queue } from "../queue/worker.ts";
import { within } from "../runtime/deadline.ts";
import type { Logger } from "../runtime/logger.ts";
import { type Config, isLoopback } from "../settings/config.ts";
import type { Valkey } from "../valkey/connection.ts";
import { createBullBoardRoutes } from "./bull-board.ts";
import type { Site } from "./layout.tsx";
import { type BoardLog, createBoardLog } from "./log.ts";
import { createLogin } from "./login.ts";
import { createPageRoutes } from "./page-routes.tsx";
import { needsValkey, refuse } from "./refusal.tsx";

const BOARD = "/board";
const BODY_MS = 10 * 1000; // 10 s for a form of two ids
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
    // With none at all, browsers send `Origin: null` with our own forms, which csrf() has to refuse.
    referrerPolicy: "same-origin",
    // TLS is the proxy's, and so is a promise about a whole domain.
    strictTransportSecurity: false,
  });
const headers = buildHeaders([]);
const bullBoardHeaders = buildHeaders(["'unsafe-inline'"]); // its page sets styles inline; its scripts are files

/** The settings that the board's app reads. */
export type BoardConfig = Pick<
  Config,
  "boardUser" | "boardPassword" | "boardEnvironment" | "boardReadonly" | "boardTrustProxy" | "timeoutMs"
>;

export interface BoardAppOptions {
  readonly config: BoardConfig;
  readonly valkey: Valkey;
  readonly queue: Queue;
  readonly registry: Registry;
  readonly logger: Logger;
  /** Epoch ms. */
  readonly now?: () => number;
  /** ms of a clock that never goes back. */
  readonly monotonicNow?: () => number;
}

/** Everything that is asked for, as a handler of `Bun.serve`: whose second argument tells who asks. */
export function createBoardApp(options: BoardAppOptions): Hono {
  const { config, valkey, queue, registry, logger, now = Date.now, monotonicNow = () => performance.now() } = options;
  const log = createAttemptLog(valkey);
  const boardLog = createBoardLog({ logger, trustProxy: config.boardTrustProxy });
  const site: Site = {
    environment: config.boardEnvironment,
    isReadonly: config.boardReadonly,
    bullBoard: BOARD,
    queue: queue.name,
    timeoutMs: config.timeoutMs,
  };
  const app = new Hono();
  app.use((c, next) => (`${c.req.path}/`.startsWith(`${BOARD}/`) ? bullBoardHeaders : headers)(c, next));
  app.use(unstored);
  const check = createValkeyCheck({ valkey, queue: queue.name, program: "board" });
  app.route(
    "/",
    createHealthRoutes(async () => Object.values(await check()).flat()),
  );

  // From here on behind the login.
  const { boardUser: user, boardPassword: password } = config;
  app.use(
    password === undefined
      ? loopbackOnly(site, boardLog)
      : createLogin({ user, password, log: boardLog, now: monotonicNow }),
  );
  app.use(csrf(), ownSite, wholeBody);
  app.route("/", createMetricsRoutes(registry));
  app.route("/", createPageRoutes({ site, queue, valkey, log, boardLog, now }));

  app.get("/users/:userId/attempts", needsValkey(valkey, site), async (c) => {
    const userId = jobData.shape.userId.safeParse(c.req.param("userId"));
    if (!userId.success) return c.json({ error: `userId: ${userId.error.issues[0]?.message}` }, 400);
    return c.json({ attempts: await log.list(userId.data, now()) });
  });

  app.get(`${BOARD}/`, (c) => c.redirect(BOARD));
  app.use(`${BOARD}/api/*`, needsValkey(valkey, site));
  app.route(
    BOARD,
    createBullBoardRoutes({
      queue,
      valkey,
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

/** What the app says when there is nothing, when it refuses, and when it fails: never an error's own words. */
function answerTrouble(app: Hono, site: Site, { logger, boardLog }: { logger: Logger; boardLog: BoardLog }): void {
  app.notFound((c) =>
    refuse(c, site, {
      status: 404,
      error: "not found",
      title: "Nothing here",
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
        text: "The request came from another site, or from a browser that does not say where from. Nothing was changed.",
      });
    }
    logger.error({ error: error.name, reason: error.message }, "board.failed");
    return refuse(c, site, {
      status: 500,
      error: "internal error",
      title: "That went wrong",
      text: "An error of the board's own: its log, board.failed, has the reason.",
    });
  });
}

/**
 * Without a password, only for whoever asks for this machine by its own name: any web page can have its host name lead
 * here (DNS rebinding), and would then be of the same origin as the board.
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

/** Answers are about customers, and go into no cache. Files that are the same for everybody may. */
const unstored: MiddlewareHandler = async (c, next) => {
  await next();
  if (c.res.headers.has("cache-control") || c.req.path.startsWith(`${BOARD}/static/`)) return;
  c.header("cache-control", "no-store");
};

/** What csrf() leaves: it looks at what a form can send, but a browser says of every action from which site it comes. */
const ownSite: MiddlewareHandler = async (c, next) => {
  const site = c.req.header("sec-fetch-site");
  const origin = c.req.header("origin"); // what older browsers say; the scheme is the proxy's
  const isOwn = origin === undefined || URL.parse(origin)?.host === new URL(c.req.url).host;
  const isAction = c.req.method !== "GET" && c.req.method !== "HEAD";
  if (isAction && (site === undefined ? !isOwn : site !== "same-origin")) throw new HTTPException(403);
  await next();
};

/** Read an action's body before anything is done about it: who sends a byte a second gets no more than 10 s. */
const wholeBody: MiddlewareHandler = async (c, next) => {
  if (c.req.method === "GET" || c.req.method === "HEAD") return await next();
  const body = await within(
    BODY_MS,
    c.req.arrayBuffer().catch(() => "broken"),
    "slow",
  );
  if (body === "broken") throw new HTTPException(400, { message: "the body ended before its end" });
  if (body === "slow") throw new HTTPException(408, { message: "the body did not come in time" });
  await next();
};
