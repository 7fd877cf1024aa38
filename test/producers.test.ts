import { afterAll, expect, test } from "bun:test";
import schema from "../docs/job.schema.json";
import { buildJobSchema } from "../src/dev/job-schema.ts";
import { startReceiver } from "../src/dev/receiver.ts";
import { jobData, startStack } from "./support/stack.ts";

const stack = await startStack();
const receiver = await startReceiver();
afterAll(async () => {
  await stack.stop();
  await receiver.stop();
});

test("docs/job.schema.json is the contract: `bun src/dev/job-schema.ts` writes it", () => {
  expect(schema as object).toEqual(JSON.parse(JSON.stringify(buildJobSchema())));
});

test.each<[string, object]>([
  ["Python", { attempts: 0, delay: 0, backoff: null }],
  ["PHP", { delay: 0, attempts: 0 }],
  ["Rust and .NET", { attempts: 0, delay: 0 }],
  ["a client that sets nothing", {}],
])("a job as stored by %s is delivered, on the worker's schedule", async (_, opts) => {
  receiver.answer((_request, index) => ({ status: index % 2 === 0 ? 500 : 200 }));
  const before = receiver.requests.length;
  const id = crypto.randomUUID();
  const { queue, valkey } = stack;
  await valkey
    .multi()
    .hset(queue.toKey(id), {
      name: "file.created",
      data: JSON.stringify(jobData(receiver.url())),
      opts: JSON.stringify(opts),
      timestamp: String(Date.now()),
      delay: "0",
      priority: "0",
    })
    .lpush(queue.toKey("wait"), id)
    .zadd(queue.toKey("marker"), 0, "0")
    .exec();
  expect((await stack.settled({ id })).state).toBe("completed");
  expect(receiver.requests.length - before).toBe(2);
});
