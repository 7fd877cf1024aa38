/**
 * The board's pages and API, without a socket: health, login, Bull Board, the attempts of a user, metrics.
 */
import { createHash, timingSafeEqual } from "node:crypto";
import { Hono, type MiddlewareHandler } from "hono";
import { basicAuth } from "hono/basic-auth";
import { csrf } from "hono/csrf";
import { HTTPException } from "hono/http-exception";
import { secureHeaders } from "hono/secure-headers";
import type { Registry } from "prom-client";
import { jobData } from "../jobs/event.ts";
import { createAttemptLog } from "./attempts.ts";
import { createBullBoardRoutes } from "./bull-board.ts";
import { type Config, isLoopback } from "./config.ts";
import { createHealthRoutes, createMetricsRoutes } from "./health.ts";
import type { Site } from "./layout.tsx";
import type { Logger } from "./logger.ts";
import { createPageRoutes } from "./page-routes.tsx";
import type { Queue } from "./queue.ts";
import { checkValkey } from "./readiness.ts";
import { needsValkey, refuse } from "./refusal.tsx";
import type { Valkey } from "./valkey.ts";

const BOARD = "/board";
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
  "boardUser" | "boardPassword" | "boardEnvironment" | "boardReadonly" | "timeoutMs"
>;

export interface BoardAppOptions {
  readonly config: BoardConfig;
  readonly valkey: Valkey;
  readonly queue: Queue;
  readonly registry: Registry;
  readonly logger: Logger;
  /** Epoch ms. */
  readonly now?: () => number;
}

export function createBoardApp({ config, valkey, queue, registry, logger, now = Date.now }: BoardAppOptions): Hono {
  const log = createAttemptLog(valkey);
  const site: Site = {
    environment: config.boardEnvironment,
    isReadonly: config.boardReadonly,
    bullBoard: BOARD,
    queue: queue.name,
    timeoutMs: config.timeoutMs,
  };
  const app = new Hono();
  app.use((c, next) => (`${c.req.path}/`.startsWith(`${BOARD}/`) ? bullBoardHeaders : headers)(c, next));
  app.route(
    "/",
    createHealthRoutes(() => checkValkey(valkey)),
  );

  // From here on behind the login.
  app.use(config.boardPassword === undefined ? loopbackOnly(site) : login(config.boardUser, config.boardPassword));
  app.use(csrf());
  app.route("/", createMetricsRoutes(registry));
  app.route("/", createPageRoutes({ site, queue, valkey, log, logger, now }));

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
    }),
  );

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
      if (error.status !== 403) return error.getResponse();
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
  return app;
}

/**
 * Without a password, only for whoever asks for this machine by its own name: any web page can have its host name lead
 * here (DNS rebinding), and would then be of the same origin as the board.
 */
function loopbackOnly(site: Site): MiddlewareHandler {
  return async (c, next) => {
    if (isLoopback(new URL(c.req.url).hostname)) return await next();
    return await refuse(c, site, {
      status: 403,
      error: "refused: without BOARD_PASSWORD the board answers as localhost only",
      title: "Refused",
      text: "Without BOARD_PASSWORD the board answers as localhost only. Set one to reach it by another name.",
    });
  };
}

/** HTTP Basic. Compares digests of equal length, user and password both, so that time tells nothing about either. */
function login(user: string, password: string): MiddlewareHandler {
  const expectedUser = digest(user);
  const expectedPassword = digest(password);
  return basicAuth({
    realm: "Fluxhook",
    invalidUserMessage: { error: "user and password required" },
    verifyUser(givenUser, givenPassword) {
      const isUser = timingSafeEqual(digest(givenUser), expectedUser);
      const isPassword = timingSafeEqual(digest(givenPassword), expectedPassword);
      return isUser && isPassword;
    },
  });
}

function digest(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}
