/** Workers that die and lose their locks while they make the deliveries of events for several endpoints. */
import { expect } from "bun:test";
import { type Receiver, startReceiver } from "../../src/dev/receiver.ts";
import { createFluxhook } from "../../src/index.ts";
import { chaos, kill, RECOVERY_MS, type Rig, SETTLE_MS } from "../support/chaos.ts";
import { startProxy } from "../support/proxy.ts";
import { eventually } from "../support/stack.ts";

const EVENTS = 2_000;
const ENDPOINTS = 3;
const USERS = 20;
const ALIVE_MS = 300;
const KILLS = 25;
const env = { WEBHOOK_REGISTRY: "1", WEBHOOK_KEEP_COMPLETED: "10" };

/** Receivers of the rig's, and users who have registered all of them. */
async function register(rig: Rig, users: number) {
  const receivers: Receiver[] = [];
  for (let i = 0; i < ENDPOINTS; i++) {
    const receiver = await startReceiver();
    rig.atEnd(() => receiver.stop());
    receivers.push(receiver);
  }
  const fluxhook = createFluxhook({
    valkeyUrl: rig.valkey.url,
    allowPlainSecrets: true,
    timeoutMs: 60_000,
    registry: true,
  });
  rig.atEnd(() => fluxhook.close());
  for (let user = 0; user < users; user++) {
    for (const [index, receiver] of receivers.entries()) {
      await fluxhook.endpoints.create(`usr_${user}`, { id: `ep_${index}`, url: receiver.url(`/${user}`) });
    }
  }
  return { receivers, fluxhook };
}

/** The ids of jobs that were added, of events and of their deliveries. */
async function addedJobs({ admin }: Rig): Promise<string[]> {
  const entries = await admin.xrange("bull:webhooks:events", "-", "+");
  return entries.flatMap(([, [, what, , id]]) => (what === "added" ? [id as string] : []));
}

chaos(
  "killed again and again: each event's deliveries are made once, and each receiver has each event",
  { workers: 0, env },
  async (rig) => {
    const { receivers, fluxhook } = await register(rig, USERS);
    await rig.admin.hset("bull:webhooks:meta", "opts.maxLenEvents", "1000000"); // to count what was added
    const ids = Array.from({ length: EVENTS }, () => crypto.randomUUID());
    await fluxhook.enqueueMany(
      ids.map((id, index) => ({ event: "file.created", userId: `usr_${index % USERS}`, id, data: { index } }) as never),
    );
    const seen = receivers.map(() => new Set<string>());
    for (const [index, receiver] of receivers.entries()) {
      receiver.answer(({ headers }) => {
        seen[index]?.add(headers["webhook-id"] as string);
        return { delayMs: Math.round(rig.chance.between(5, 40)) };
      });
    }
    let kills = 0;
    for (; kills < KILLS && seen.some(({ size }) => size < EVENTS); kills++) {
      const victim = await rig.startWorker();
      await Bun.sleep(ALIVE_MS);
      rig.workers.splice(rig.workers.indexOf(victim), 1);
      await kill(victim);
    }
    await rig.startWorker();
    await rig.settled(SETTLE_MS);

    const children = (await addedJobs(rig)).filter((id) => id.includes("."));
    expect(children).toHaveLength(EVENTS * ENDPOINTS);
    expect(new Set(children).size).toBe(EVENTS * ENDPOINTS);
    for (const events of seen) expect([...events].sort()).toEqual([...ids].sort());
    const repeated = receivers.reduce((sum, { requests }) => sum + requests.length, 0) - EVENTS * ENDPOINTS;
    rig.figures({ kills, repeated });
    expect(kills).toBeGreaterThan(2);
  },
);

chaos("a worker that lost its lock adds nothing", { workers: 0, env }, async (rig) => {
  const { receivers, fluxhook } = await register(rig, 1);
  const proxy = await startProxy(rig.valkey.port);
  rig.atEnd(() => proxy.stop());
  const late = await rig.startWorker({ VALKEY_URL: proxy.url });
  const { held, letGo } = proxy.hold("ep_1"); // the reply that names the user's endpoints
  const { id } = await fluxhook.enqueue({ event: "file.created", userId: "usr_0", data: { index: 0 } } as never);
  await held;
  await rig.admin.del(`bull:webhooks:${id}:lock`);
  await rig.startWorker();
  for (const receiver of receivers)
    await eventually(
      () => receiver.requests.length,
      (count) => count === 1,
      RECOVERY_MS,
    );
  expect(await rig.admin.hget(`bull:webhooks:${id}`, "stc")).toBe("1");
  letGo(); // it goes on to make the deliveries
  const next = await fluxhook.enqueueMany(
    Array.from({ length: 40 }, (_, index) => ({ event: "file.created", userId: "usr_0", data: { index } }) as never),
  );
  await eventually(
    () => late.lines.some(({ message }) => message === "delivery.attempted"),
    (hasAttempted) => hasAttempted,
    SETTLE_MS,
  );
  await rig.settled(SETTLE_MS);
  expect(receivers.map(({ requests }) => requests.length)).toEqual([1, 1, 1].map((one) => one + next.length));
  const added = await addedJobs(rig);
  expect(added.filter((job) => job.startsWith(`${id}.`))).toHaveLength(ENDPOINTS);
  rig.figures({});
});
