/** Whole deliveries through an egress proxy: from the queue to the user's log, with a real name server. */
import { afterEach, expect, test } from "bun:test";
import {
  type ConnectAnswer,
  type ConnectProxy,
  type ConnectRequest,
  startConnectProxy,
} from "./support/connect-proxy.ts";
import { http, type Listener, listen } from "./support/listener.ts";
import { startNameServer, v4 } from "./support/name-server.ts";
import { eventually, jobData, type Stack, type StackOptions, startStack } from "./support/stack.ts";

const PUBLIC = "93.184.216.34"; // the proxy leads it, like every other address, to loopback
const PASSWORD = "s3cret-of-the-proxy";

const stops: (() => unknown)[] = [];
afterEach(async () => {
  for (const stop of stops.splice(0).reverse()) await stop();
});

interface Scene {
  readonly customer: Listener;
  readonly proxy: ConnectProxy;
  readonly system: Stack;
}

/** A receiver on the internet, a proxy with an internal name, and a worker that reaches the world through it alone. */
async function scene(
  answer: (request: ConnectRequest, index: number) => ConnectAnswer,
  options: StackOptions = {},
): Promise<Scene> {
  const customer = await listen(({ socket }) => void socket.write(http(200)));
  const proxy = await startConnectProxy(answer);
  const table: Readonly<Record<string, string>> = { "proxy.internal": "127.0.0.1", "customer.example": PUBLIC };
  const nameServer = await startNameServer((question) => {
    const address = table[question.name];
    return address === undefined ? { code: "NXDOMAIN" } : v4(address)(question);
  });
  const system = await startStack({
    allowNetworks: [],
    dnsServers: [nameServer.server],
    destinations: { proxy: new URL(`http://fluxhook:${PASSWORD}@proxy.internal:${proxy.port}`) },
    ...options,
  });
  stops.push(
    () => customer.stop(),
    () => proxy.stop(),
    () => nameServer.stop(),
    () => system.stop(),
  );
  return { customer, proxy, system };
}

test("an event goes through a proxy with an internal name to a checked address, and no internal name of a customer's does", async () => {
  const { customer, proxy, system } = await scene(() => "tunnel", { policy: { attempts: 1, delaysMs: [], jitter: 0 } });
  const job = await system.queue.add("file.created", jobData(`http://customer.example:${customer.port}/`));
  expect((await system.settled(job)).state).toBe("completed");
  expect(proxy.requests.map(({ authority }) => authority)).toEqual([`${PUBLIC}:${customer.port}`]);

  const probing = await system.queue.add("file.created", jobData(`http://proxy.internal:${proxy.port}/`));
  expect((await system.settled(probing)).state).toBe("failed");
  expect(await system.line("delivery.attempted", 2)).toMatchObject({ error: "dns", cause: "loopback" });
  expect(proxy.requests).toHaveLength(1);
});

test("a proxy that refuses us costs no attempt, stays out of the user's log, and its password out of ours", async () => {
  const { customer, system } = await scene((_, index) => (index < 3 ? 407 : "tunnel"));
  const data = jobData(`http://customer.example:${customer.port}/`);
  const job = await system.queue.add("file.created", data);
  for (const count of [1, 2, 3]) {
    const line = await system.line("delivery.attempted", count);
    expect(line).toMatchObject({ attempt: 1, error: "proxy", cause: "status_407", verdict: "defer" });
    await eventually(
      () => job.getState(),
      (state) => state === "delayed",
    );
    expect((await system.queue.getJob(job.id as string))?.attemptsMade).toBe(0);
    await job.promote();
  }
  const { state, job: ended } = await system.settled(job);
  expect([state, ended.attemptsMade]).toEqual(["completed", 1]);
  expect(await system.attempts(data.userId)).toMatchObject([{ attempt: 1, success: true }]);
  expect(JSON.stringify([system.lines, await system.stored(job)])).not.toContain(PASSWORD);
  expect(customer.exchanges[0]?.headers.flat().join()).not.toMatch(/proxy/i);
});
