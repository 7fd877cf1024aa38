/**
 * Customers whose name servers are dead, beside others: a whole worker, a real name server, real receivers.
 *
 * `test/chaos/names.ts` has them as the machine itself does, with its hosts file and a name server at port 53.
 */
import { expect, test } from "bun:test";
import { listen } from "./support/listener.ts";
import { startNameServer, v4 } from "./support/name-server.ts";
import { jobData, startStack } from "./support/stack.ts";

const DEAD_NAMES = 60;
const SECONDS = 5;
const HEALTHY_A_SECOND = 20;

test.concurrent.each([
  ["are silent", undefined],
  ["fail after four seconds", { code: "SERVFAIL", afterMs: 4_000 } as const],
])(
  "events to other names do not wait while the name servers of sixty %s",
  async (_, said) => {
    const healthy = v4("127.0.0.1");
    const nameServer = await startNameServer((question) => (/\.dead/.test(question.name) ? said : healthy(question)));
    const receiver = await listen(({ socket }) => void socket.write("HTTP/1.1 204 No Content\r\n\r\n"));
    const stack = await startStack({
      dnsServers: [nameServer.server],
      concurrency: 64,
      timeoutMs: 10_000,
      policy: { attempts: 3, delaysMs: [60_000], jitter: 0 },
    });
    try {
      const tookMs: Promise<number>[] = [];
      for (let second = 0; second < SECONDS; second++) {
        const startedAt = performance.now();
        const dead = Array.from({ length: DEAD_NAMES }, (_, i) => jobData(`http://hook${i}.dead${i}.example/in`));
        await stack.queue.addBulk(dead.map((data) => ({ name: "file.created", data })));
        for (let i = 0; i < HEALTHY_A_SECOND; i++) {
          const name = `hook${second}-${i}.healthy${i}.example`; // asked for anew each time
          const addedAt = performance.now();
          const job = await stack.queue.add("file.created", jobData(`http://${name}:${receiver.port}/in`));
          tookMs.push(
            stack.settled(job).then(({ state }) => (state === "completed" ? performance.now() - addedAt : Infinity)),
          );
          await Bun.sleep(1_000 / HEALTHY_A_SECOND - 10);
        }
        await Bun.sleep(Math.max(0, startedAt + 1_000 - performance.now()));
      }
      const all = (await Promise.all(tookMs)).sort((a, b) => a - b);
      expect(all).toHaveLength(SECONDS * HEALTHY_A_SECOND);
      expect(all[Math.floor(0.5 * all.length)]).toBeLessThan(1_500); // on a busy machine
      expect(all.at(-1)).toBeLessThan(3_900); // who waits for a dead name waits for four seconds

      // The dead names are their customers' trouble: charged and logged.
      await stack.line("delivery.attempted", all.length + DEAD_NAMES);
      const failed = stack.lines.filter(({ error }) => error !== undefined && error !== null);
      expect(new Set(failed.map(({ error, verdict }) => `${error} ${verdict}`))).toEqual(new Set(["dns retry"]));
    } finally {
      await stack.stop();
      await receiver.stop();
      nameServer.stop();
    }
  },
  25_000,
);
