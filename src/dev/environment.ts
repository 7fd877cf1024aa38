/**
 * Settings and queue of the demo's worker and board.
 */
import { Queue } from "bullmq";
import { within } from "../runtime/deadline.ts";
import { type Config, loadConfig } from "../settings/config.ts";
import { reachValkey } from "../valkey/reach.ts";
import { addressOf, placeOf } from "../valkey/url.ts";
import { freePort } from "./processes.ts";

/** An error that the user can fix: shown without a stack trace. */
export class DemoError extends Error {
  override readonly name = "DemoError";
}

/** The settings, raw for child processes and parsed for us, and the queue, opened by a plain BullMQ client. */
export interface Environment {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly config: Config;
  readonly queue: Queue;
}

type Env = Readonly<Record<string, string | undefined>>;

const VALKEY_ANSWERS_MS = 3 * 1000; // 3 s

/**
 * Complete the user's settings for the demo: allow loopback, retry after 1 s, replace ports that are taken. Settings of the
 * user are kept.
 *
 * @param own  the Valkey is the user's, so others may use it too
 * @throws  DemoError when a setting is wrong, or Valkey does not answer
 */
export async function prepareEnvironment(base: Env, valkeyUrl: string, own: boolean): Promise<Environment> {
  const { config } = load({ ...base, VALKEY_URL: valkeyUrl });
  const queue = own ? await openQuietQueue(config) : openQueue(config.queue, valkeyUrl);
  const [workerPort, boardPort] = await Promise.all([
    base.WORKER_PORT || freePort(config.workerPort, config.workerHost),
    base.BOARD_PORT || freePort(config.boardPort, config.boardHost),
  ]);
  return {
    queue,
    ...load({
      ...base,
      VALKEY_URL: valkeyUrl,
      WEBHOOK_QUEUE: queue.name,
      WEBHOOK_EVENTS: "", // the demo sends the default ones
      WEBHOOK_ALLOW_NETWORKS: [base.WEBHOOK_ALLOW_NETWORKS, "127.0.0.0/8"].filter(Boolean).join(","),
      WEBHOOK_RETRY_DELAYS: base.WEBHOOK_RETRY_DELAYS || "1s,5s,30s",
      WORKER_PORT: String(workerPort),
      BOARD_PORT: String(boardPort),
      SHUTDOWN_TIMEOUT: base.SHUTDOWN_TIMEOUT || "5s",
      LOG_LEVEL: "info", // attempts are read from the log
    }),
  };
}

function load(env: Env): { env: Env; config: Config } {
  const loaded = loadConfig(env);
  if (!loaded.ok) throw new DemoError(loaded.problems.join("\n"));
  return { env, config: loaded.config };
}

function openQueue(name: string, url: string): Queue {
  const queue = new Queue(name, { connection: addressOf(url) });
  return queue.on("error", () => {}); // it keeps reconnecting; callers have a deadline
}

/**
 * The configured queue, or a separate one if it is in use: otherwise the demo's worker would deliver real events, with
 * loopback allowed, and real workers would take the demo's.
 */
async function openQuietQueue({ queue: name, valkeyUrl }: Config): Promise<Queue> {
  // BullMQ would continue in database 0, which may have another environment's events.
  const reached = await reachValkey(valkeyUrl, "fluxhook:start");
  if (reached.ok) reached.valkey.disconnect();
  else if (reached.isWrongSetting) throw new DemoError(reached.reason);
  const queue = openQueue(name, valkeyUrl);
  const use = Promise.all([
    queue.getWorkersCount(),
    queue.getJobCountByTypes("waiting", "active", "delayed", "prioritized"),
  ]);
  const counts = await within(VALKEY_ANSWERS_MS, use, undefined);
  if (counts === undefined) {
    throw new DemoError(
      `No Valkey answers at ${placeOf(valkeyUrl)} (VALKEY_URL). Start it, or unset VALKEY_URL: npm start then runs its own.`,
    );
  }
  if (counts[0] === 0 && counts[1] === 0) return queue;
  await queue.close();
  return openQueue(`${name}-demo`, valkeyUrl);
}
