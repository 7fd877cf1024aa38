import { afterAll, describe, expect, test } from "bun:test";
import { startReceiver } from "../src/dev/receiver.ts";
import { createFluxhook, type NewEvent } from "../src/index.ts";
import { jobData, startStack } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const stack = await startStack();
const receiver = await startReceiver();
const fluxhook = createFluxhook({ valkeyUrl: await testValkeyUrl(), queue: stack.queue.name });
afterAll(async () => {
  await fluxhook.close();
  await receiver.stop();
  await stack.stop();
});

const event = (overrides: Partial<NewEvent> = {}): NewEvent => ({
  event: "file.created",
  ...jobData(receiver.url()),
  ...overrides,
});

describe("a backend", () => {
  test("enqueues an event that is delivered, and reads its attempt", async () => {
    const sent = event();
    const id = await fluxhook.enqueue(sent);
    expect((await stack.settled({ id })).state).toBe("completed");
    expect(await fluxhook.readAttempts(sent.userId)).toMatchObject([{ event: "file.created", success: true }]);
  });

  test("that enqueues the same id twice has one delivery", async () => {
    const sent = event({ id: crypto.randomUUID() });
    const ids = [await fluxhook.enqueue(sent), await fluxhook.enqueue(sent)];
    expect(ids).toEqual([sent.id as string, sent.id as string]);
    await stack.settled({ id: sent.id });
    expect(await fluxhook.readAttempts(sent.userId)).toHaveLength(1);
  });

  test("that breaks the contract is told so, and nothing is queued", async () => {
    const before = await stack.queue.getJobCounts();
    const broken = event({ userId: "", endpoint: { url: "ftp://x", secret: "leak" } });
    const error = await fluxhook.enqueue(broken).catch((reason: Error) => reason);
    expect(String(error)).toContain("data.userId: expected 1 to 128 visible ASCII characters; data.endpoint.url: ");
    expect(String(error)).not.toContain("leak");
    expect(await stack.queue.getJobCounts()).toEqual(before);
  });
});
