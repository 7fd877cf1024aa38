/** A queue in a Valkey of its own, for what looks at every key there is. */
import { afterAll } from "bun:test";
import { Queue } from "bullmq";
import { Redis } from "ioredis";
import { startValkey } from "../../src/dev/valkey.ts";

/** Start one for the file that calls this: it ends with its last test. */
export async function startOwnQueue(name: string) {
  const valkey = await startValkey();
  const client = new Redis(valkey.url, { maxRetriesPerRequest: null });
  const queue = new Queue(name, { connection: client });
  afterAll(async () => {
    await queue.close();
    client.disconnect();
    await valkey.stop();
  });
  return {
    valkey,
    client,
    queue,
    /** Of the programs that use it. */
    env: { VALKEY_URL: valkey.url, WEBHOOK_QUEUE: name },
    /** One of the queue's keys, or a job's. */
    key: (part: string) => queue.toKey(part),
  };
}
