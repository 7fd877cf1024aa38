/**
 * The board: `bun src/board.ts`. One process is enough. Wiring only.
 */
import { createBoardApp } from "./board/app.ts";
import { createBoardMetrics } from "./monitoring/queue-metrics.ts";
import { type OpenShard, type OpenShards, openShard } from "./queue/open-shard.ts";
import { watchPausedList } from "./queue/paused-list.ts";
import { within } from "./runtime/deadline.ts";
import { createLogger } from "./runtime/logger.ts";
import { serve } from "./runtime/serve.ts";
import { onSignals } from "./runtime/signals.ts";
import { exitWithoutDatabase, loadConfigOrAnswer } from "./settings/check.ts";
import { findMisspelled } from "./settings/config.ts";
import { connectValkey } from "./valkey/connection.ts";

const LAST_RESPONSES_MS = 1000; // 1 s for requests in progress; idle keep-alive connections would never end

const config = await loadConfigOrAnswer(process.env, process.argv.slice(2), {
  name: "board",
  purpose: "The board: Bull Board, users' attempts, health and metrics. One process is enough.",
});
const { logger, flush } = createLogger(config.logLevel);
for (const { name, hint } of findMisspelled(process.env)) logger.warn({ setting: name, hint }, "setting.unknown");
const shards = config.shards.map((shard): OpenShard => {
  const valkey = connectValkey(shard.url, "fluxhook:board", logger, { key: shard.queue });
  exitWithoutDatabase(valkey);
  return openShard(shard, valkey);
}) as unknown as OpenShards;
const registry = createBoardMetrics(
  shards.map(({ client, ...shard }) => ({ ...shard, queue: client })),
  config,
);
const endWatches = shards.map(({ url, queue }) => watchPausedList({ valkeyUrl: url, queue, logger }));

const app = createBoardApp({ config, shards, registry, logger });
const server = serve(app.fetch, { host: config.boardHost, port: config.boardPort, setting: "BOARD_PORT" });

onSignals(
  async (signal) => {
    logger.info({ signal }, "board.stopping");
    await within(LAST_RESPONSES_MS, server.stop(), undefined);
    await server.stop(true);
    for (const end of endWatches) end();
    for (const { valkey } of shards) valkey.disconnect(); // quit would hang while Valkey is away
    await flush();
    return 0;
  },
  () => process.exit(1),
);
const { origin } = server.url;
logger.info(
  {
    url: origin,
    board: `${origin}/board`,
    queue: config.queue,
    ...countShards(),
    login: config.boardPassword !== undefined,
  },
  "board.ready",
);

function countShards(): { readonly shards?: number } {
  return shards.length === 1 ? {} : { shards: shards.length };
}
