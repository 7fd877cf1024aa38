/**
 * The board: `bun src/board.ts`, one is enough. Wiring only.
 */
import { createBoardApp } from "./board/app.ts";
import { createBoardMetrics } from "./monitoring/metrics.ts";
import { watchPausedList } from "./queue/paused-list.ts";
import { openQueue } from "./queue/worker.ts";
import { within } from "./runtime/deadline.ts";
import { createLogger } from "./runtime/logger.ts";
import { serve } from "./runtime/serve.ts";
import { onSignals } from "./runtime/signals.ts";
import { exitWithoutDatabase, loadConfigOrAnswer } from "./settings/check.ts";
import { findMisspelt } from "./settings/config.ts";
import { connectValkey } from "./valkey/connection.ts";

const LAST_ANSWERS_MS = 1000; // 1 s for requests under way; idle connections would keep us for ever

const config = await loadConfigOrAnswer(process.env, process.argv.slice(2), {
  name: "board",
  purpose: "The board: Bull Board, the attempts of users, health and metrics. One is enough.",
});
const { logger, flush } = createLogger(config.logLevel);
for (const { name, hint } of findMisspelt(process.env)) logger.warn({ setting: name, hint }, "setting.unknown");
const valkey = connectValkey(config.valkeyUrl, "fluxhook:board", logger);
exitWithoutDatabase(valkey);
const queue = openQueue(config.queue, valkey);
queue.on("error", () => {}); // the connection reports it
const registry = createBoardMetrics(queue, valkey);
const endWatch = watchPausedList({ ...config, logger });

const app = createBoardApp({ config, valkey, queue, registry, logger });
const server = serve(app.fetch, { host: config.boardHost, port: config.boardPort, setting: "BOARD_PORT" });

onSignals(
  async (signal) => {
    logger.info({ signal }, "board.stopping");
    await within(LAST_ANSWERS_MS, server.stop(), undefined);
    await server.stop(true);
    endWatch();
    valkey.disconnect(); // not quit: that would wait while Valkey is away
    await flush();
    return 0;
  },
  () => process.exit(1),
);
const { origin } = server.url;
logger.info(
  { url: origin, board: `${origin}/board`, queue: config.queue, login: config.boardPassword !== undefined },
  "board.ready",
);
