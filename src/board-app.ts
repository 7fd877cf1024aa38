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
import type { Config } from "./config.ts";
import { within } from "./deadline.ts";
import { createHealthRoutes, createMetricsRoutes } from "./health.ts";
import type { Logger } from "./logger.ts";
import type { Queue } from "./queue.ts";
import { checkValkey } from "./readiness.ts";
import type { Valkey } from "./valkey.ts";

const BOARD = "/board";
const VALKEY_ANSWERS_MS = 1500; // 1.5 s: whoever asks gets its 503 within 2

const headers = secureHeaders({
  contentSecurityPolicy: {
    defaultSrc: ["'self'"],
    // Bull Board's page sets styles inline; its scripts are files.
    styleSrc: ["'self'", "'unsafe-inline'"],
    imgSrc: ["'self'", "data:"],
    fontSrc: ["'self'", "data:"],
    objectSrc: ["'none'"],
    baseUri: ["'self'"],
    formAction: ["'self'"],
    frameAncestors: ["'none'"],
  },
  xFrameOptions: "DENY",
  // TLS is the proxy's, and so is a promise about a whole domain.
  strictTransportSecurity: false,
});

export interface BoardAppOptions {
  readonly config: Pick<Config, "boardUser" | "boardPassword" | "boardEnvironment">;
  readonly valkey: Valkey;
  readonly queue: Queue;
  readonly registry: Registry;
  readonly logger: Logger;
  /** Epoch ms. */
  readonly now?: () => number;
}

export function createBoardApp({ config, valkey, queue, registry, logger, now = Date.now }: BoardAppOptions): Hono {
  const log = createAttemptLog(valkey);
  const app = new Hono();
  app.use(headers);
  app.route(
    "/",
    createHealthRoutes(() => checkValkey(valkey)),
  );

  // From here on behind the login.
  if (config.boardPassword !== undefined) app.use(login(config.boardUser, config.boardPassword));
  app.use(csrf());
  app.get("/", (c) => c.redirect(BOARD));
  app.route("/", createMetricsRoutes(registry));

  app.get("/users/:userId/attempts", needsValkey(valkey), async (c) => {
    const userId = jobData.shape.userId.safeParse(c.req.param("userId"));
    if (!userId.success) return c.json({ error: `userId: ${userId.error.issues[0]?.message}` }, 400);
    return c.json({ attempts: await log.list(userId.data, now()) });
  });

  app.get(`${BOARD}/`, (c) => c.redirect(BOARD));
  app.use(`${BOARD}/api/*`, needsValkey(valkey));
  app.route(
    BOARD,
    createBullBoardRoutes({ queue, valkey, basePath: BOARD, environment: config.boardEnvironment, logger }),
  );

  app.notFound((c) => c.json({ error: "not found" }, 404));
  app.onError((error, c) => {
    if (error instanceof HTTPException) {
      if (error.status === 403)
        return c.json(
          { error: "refused: not from this site (a script has to send content-type: application/json)" },
          403,
        );
      return error.getResponse();
    }
    logger.error({ error: error.name, reason: error.message }, "board.failed");
    return c.json({ error: "internal error" }, 500);
  });
  return app;
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

/**
 * 503 while Valkey does not answer. Asked first, not found out on the way: a command sent while it is away waits, and an
 * operator's click would take effect long after being told that it failed.
 */
function needsValkey(valkey: Valkey): MiddlewareHandler {
  return async (c, next) => {
    if ((await within(VALKEY_ANSWERS_MS, valkey.ping(), undefined)) !== undefined) return await next();
    return c.json({ error: "Valkey does not answer" }, 503);
  };
}
