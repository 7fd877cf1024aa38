/**
 * Customers who probe for names inside: a whole worker, a real name server. Whatever a customer can see must be the same for a name
 * that leads inside and for one that does not exist.
 */
import { expect, test } from "bun:test";
import { listen } from "./support/listener.ts";
import { startNameServer, v4 } from "./support/name-server.ts";
import { jobData, startStack } from "./support/stack.ts";

const ANSWER_MS = 30;

test("a name that leads inside looks to its customer like one that does not exist; the operator's line says where it leads", async () => {
  const listener = await listen(({ socket }) => void socket.write("HTTP/1.1 204 No Content\r\n\r\n"));
  const nameServer = await startNameServer((question) => {
    const isInside = question.name === "db.example";
    return {
      ...(isInside ? { ...v4("127.0.0.1")(question), ttlSeconds: 3_600 } : { code: "NXDOMAIN" }),
      afterMs: ANSWER_MS,
    };
  });
  const stack = await startStack({
    dnsServers: [nameServer.server],
    allowNetworks: [],
    policy: { attempts: 2, delaysMs: [3_100], jitter: 0 }, // after what is known of a name is forgotten
  });
  try {
    const seen = await Promise.all(
      ["db.example", "dx.example"].map(async (host) => {
        const data = { ...jobData(`http://${host}:${listener.port}/in`), userId: `probe-${crypto.randomUUID()}` };
        const job = await stack.queue.add("file.created", data);
        const { state, job: ended } = await stack.settled(job);
        const attempts = await stack.attempts(data.userId);
        expect(Math.min(...attempts.map(({ duration_ms }) => duration_ms))).toBeGreaterThanOrEqual(ANSWER_MS - 2);
        expect(Math.max(...attempts.map(({ duration_ms }) => duration_ms))).toBeLessThan(1_000);
        const lines = stack.lines.filter(({ message, job: id }) => message === "delivery.attempted" && id === job.id);
        expect(lines.map(({ cause }) => cause)).toEqual(Array(2).fill(host === "db.example" ? "loopback" : undefined));
        return {
          state,
          reason: ended.failedReason?.replace(/\d+ ms/, "…"),
          attemptsMade: ended.attemptsMade,
          log: attempts.map((attempt) => ({
            ...{ ...attempt, id: "", delivery: "", endpoint: "", job: "", timestamp: "", duration_ms: 0 },
          })),
          lines: lines.map(({ error, verdict, attempt }) => ({ error, verdict, attempt })),
        };
      }),
    );
    expect(seen[0]).toEqual(seen[1] as never);
    expect(seen[0]).toMatchObject({
      state: "failed",
      attemptsMade: 2,
      lines: [{ error: "dns", verdict: "retry" }, {}],
    });
    expect(await stack.metrics.registry.metrics()).not.toMatch(/fluxhook_blocked_total\{/);
    expect(listener.connections).toBe(0);
  } finally {
    await stack.stop();
    await listener.stop();
    nameServer.stop();
  }
}, 25_000);
