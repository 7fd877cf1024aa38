/** Which certificate authorities a whole worker trusts: what it trusts by itself, and those of WEBHOOK_CA_FILE. */
import { afterEach, expect, test } from "bun:test";
import { join } from "node:path";
import { Queue } from "bullmq";
import { Redis } from "ioredis";
import { type Listener, listen } from "./support/listener.ts";
import { startWorkerProcess } from "./support/process.ts";
import { jobData } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const support = (name: string) => join(import.meta.dir, "support", name);
const stops: (() => unknown)[] = [];

afterEach(async () => {
  for (const stop of stops.splice(0).reverse()) await stop();
});

/** A receiver at https://127.0.0.1 with a certificate from there. */
async function receiver(pem: string): Promise<Listener> {
  const tls = await Bun.file(support(pem)).text();
  const listener = await listen(({ socket }) => void socket.write("HTTP/1.1 204 No Content\r\n\r\n"), { tls });
  stops.push(listener.stop);
  return listener;
}

test.each([
  ["both", { WEBHOOK_CA_FILE: support("self-signed.pem") }, [null, null]],
  ["by itself alone, where the setting is not given", {}, [null, "tls"]],
])(
  "a worker trusts the certificates of WEBHOOK_CA_FILE beside what it trusts by itself: %s",
  async (_, env, expected) => {
    const valkeyUrl = await testValkeyUrl();
    const name = `test-${crypto.randomUUID()}`;
    const client = new Redis(valkeyUrl, { maxRetriesPerRequest: null });
    const queue = new Queue(name, { connection: client });
    stops.push(
      () => client.disconnect(),
      () => queue.close(),
    );
    // NODE_EXTRA_CA_CERTS is how a root comes to be among those that Bun trusts by itself, without a public certificate.
    const worker = startWorkerProcess({
      ...{ VALKEY_URL: valkeyUrl, WEBHOOK_QUEUE: name, NODE_EXTRA_CA_CERTS: support("ca.pem"), ...env },
    });
    stops.push(worker.stop);
    const outcomes: unknown[] = [];
    for (const pem of ["right.pem", "self-signed.pem"]) {
      await queue.add("file.created", jobData(`https://127.0.0.1:${(await receiver(pem)).port}/in`));
      outcomes.push((await worker.line("delivery.attempted", outcomes.length + 1)).error);
    }
    expect(outcomes).toEqual(expected);
  },
  25_000,
);
