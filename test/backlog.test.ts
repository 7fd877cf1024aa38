/** Backlogs, through the whole worker: whoever caused one, everybody else's events come soon, and each comes once. */
import { expect } from "bun:test";
import { type Receiver, startReceiver } from "../src/dev/receiver.ts";
import { alone, keep, sideBySide } from "./support/side-by-side.ts";
import { bounded, eventually, jobData, type Stack, startStack } from "./support/stack.ts";

async function receiver(delayMs: number): Promise<Receiver> {
  const started = keep(await startReceiver());
  started.answer({ delayMs });
  return started;
}

async function stack(concurrency: number, timeoutMs = 5_000): Promise<Stack> {
  return keep(await startStack({ concurrency, timeoutMs, isIdle: true }));
}

const SILENT_MS = 20_000; // an attempt that is not answered: none of them ends before the quick ones have come

/** Enqueue one event to each of these URLs, of one user or of a new one each. */
async function add({ queue }: Stack, urls: readonly string[], userId?: string): Promise<void> {
  const jobs = urls.map((url) => ({
    name: "file.created",
    data: jobData(url, userId === undefined ? {} : { userId }),
  }));
  await queue.addBulk(jobs);
}

const times = (count: number, url: (index: number) => string) => Array.from({ length: count }, (_, i) => url(i));
const ids = (...receivers: Receiver[]) =>
  receivers.flatMap(({ requests }) => requests.map(({ headers }) => headers["webhook-id"]));
/** Nothing is left to do, and nothing failed. */
const isDone = ({ queue }: Stack) =>
  eventually(
    () => queue.getJobCounts("wait", "prioritized", "active", "delayed", "failed"),
    (counts) => Object.values(counts).every((count) => count === 0),
  );

sideBySide(
  "one slow endpoint's backlog does not hold up the events behind it, and all come once",
  async () => {
    // So slow that it is the endpoint that sets the pace of its events, also where a busy machine takes its time for each.
    const [slow, quick] = [await receiver(300), await receiver(0)];
    const system = await stack(32);
    const [SLOW, QUICK] = [200, 50];
    await add(
      system,
      times(SLOW, () => slow.url("/in")),
    );
    await add(
      system,
      times(QUICK, () => quick.url("/in")),
    );
    system.worker.run();
    await bounded(quick.waitFor(QUICK, 10_000), () => "the quick ones", 10_000);
    expect(slow.requests.length).toBeLessThan(SLOW / 2);
    await isDone(system);
    expect(new Set(ids(slow, quick)).size).toBe(SLOW + QUICK);
    expect(ids(slow, quick)).toHaveLength(SLOW + QUICK);
  },
  40_000,
);

sideBySide("a backlog at the pace of a slow endpoint goes as soon as that is fast", async () => {
  const slow = keep(await startReceiver());
  let delayMs = 400;
  slow.answer(() => ({ delayMs }));
  const system = await stack(16);
  const COUNT = 600;
  await add(
    system,
    times(COUNT, () => slow.url("/in")),
  );
  system.worker.run();
  await eventually(
    () => system.queue.getDelayedCount(),
    (delayed) => delayed > COUNT / 2,
  );
  delayMs = 0;
  const startedAt = performance.now();
  await isDone(system);
  expect(performance.now() - startedAt).toBeLessThan(10_000); // at 400 ms each it would be more than 15 s
  expect(new Set(ids(slow)).size).toBe(COUNT);
  expect(ids(slow)).toHaveLength(COUNT);
});

alone(
  "one user's events to endpoints that all answer do not hold up the others'",
  async () => {
    const [busy, quick] = [await receiver(20), await receiver(0)];
    const system = await stack(16);
    const [BUSY, QUICK] = [2_000, 50];
    await add(
      system,
      times(BUSY, (i) => busy.url(`/${i % 400}`)),
      "usr_busy",
    );
    await add(
      system,
      times(QUICK, (i) => quick.url(`/${i}`)),
    );
    system.worker.run();
    await bounded(quick.waitFor(QUICK, 10_000), () => `the others, got ${quick.requests.length}`, 10_000);
    expect(busy.requests.length).toBeLessThan(BUSY / 2);
    await isDone(system);
    expect(new Set(ids(busy, quick)).size).toBe(BUSY + QUICK);
    expect(ids(busy, quick)).toHaveLength(BUSY + QUICK);
  },
  40_000,
);

alone("many silent endpoints' backlogs hold up nobody, not even one that is new", async () => {
  const system = await stack(64, SILENT_MS);
  const [silent, quick] = [keep(await startReceiver()), keep(await startReceiver())]; // what hangs ends with its receiver
  silent.answer("hang");
  const [ENDPOINTS, EACH] = [12, 100];
  for (let i = 0; i < ENDPOINTS; i++)
    await add(
      system,
      times(EACH, () => silent.url(`/in/${i}`)),
    );
  await add(
    system,
    times(EACH, () => quick.url("/in")),
  );
  system.worker.run();
  await bounded(
    quick.waitFor(EACH, SILENT_MS / 2),
    () => `the quick ones, got ${quick.requests.length}`,
    SILENT_MS / 2,
  );
  await eventually(
    () => system.queue.getDelayedCount(),
    (delayed) => delayed > ENDPOINTS * EACH - 64 * 4,
  );
});
