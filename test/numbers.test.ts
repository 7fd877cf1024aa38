/** Numbers that JavaScript would write differently, from any producer: as it wrote them, wherever they go. */
import { afterAll, describe, expect, test } from "bun:test";
import { Worker } from "bullmq";
import { createBullBoardRoutes } from "../src/board/bull-board.ts";
import { createBoardLog } from "../src/board/log.ts";
import { checkRequest } from "../src/cli/request-check.ts";
import { parseRequest, type SavedRequest, writeRequest } from "../src/cli/saved-request.ts";
import { parseExact } from "../src/delivery/exact-json.ts";
import { buildBody, buildRequest } from "../src/delivery/request.ts";
import { startReceiver } from "../src/dev/receiver.ts";
import { createFluxhook } from "../src/index.ts";
import { redeliver } from "../src/operations/redeliver.ts";
import { openQueue } from "../src/queue/worker.ts";
import { createLogger } from "../src/runtime/logger.ts";
import { createCommand } from "./support/command.ts";
import { onlyShard } from "./support/only-shard.ts";
import { eventually, jobData, QUICK, type Stack, startStack } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const SECRET = "s3cret-of-the-test";
/** As JSON.stringify would write it but for its numbers, so that what is sent is the same text. */
const ODD =
  '{"id":9007199254740993,"list":[18446744073709551615,[-0,-0.0],1e400,-1E+5],"rate":0.1234567890123456789,' +
  '"price":1.10,"one":1.0,"text":"id: 9007199254740993, [1.0]","__proto__":{"n":1e-7},"9007199254740993":[],' +
  '"plain":[0,-1,1.5,9007199254740991,0.30000000000000004]}';

const receiver = await startReceiver();
const idle = await startStack({ isIdle: true });
const running = await startStack({ policy: { ...QUICK, attempts: 4 } });
const odd = await addRaw(idle, ODD); // nothing takes it: for those who look at the queue
const { logger } = createLogger("silent");
const queue = openQueue(idle.queue.name, idle.valkey);
const board = createBullBoardRoutes({
  shards: onlyShard(idle.queue.name, idle.valkey),
  basePath: "",
  environment: "",
  isReadonly: false,
  logger,
  boardLog: createBoardLog({ logger, trustProxy: [] }),
});

afterAll(async () => {
  await queue.close();
  await running.stop();
  await idle.stop();
  await receiver.stop();
});

/** The data of a job in the spelling of Python's `json.dumps`, around this text. */
function written(data: string, url = receiver.url(), more = ""): string {
  return `{"userId": "usr_1", "endpoint": {"url": "${url}", "secret": "${SECRET}"}, "data": ${data}${more}}`;
}

/** Put a job on a queue as clients of other languages do: with a text of their own for its data. */
async function addRaw({ queue, valkey }: Pick<Stack, "queue" | "valkey">, data: string, raw = written(data)) {
  const job = await queue.add("file.created", {}, { delay: 3_600_000 });
  await valkey.hset(queue.toKey(job.id as string), "data", raw);
  return job;
}

/** The data of a body, as it stands there. */
const dataIn = (body: Buffer) =>
  /^\{"id":"[\w-]+","event":"[\w.]+","timestamp":"[\w.:-]+","data":(.*)\}$/s.exec(`${body}`)?.[1];

/** Everything the receiver got while this was done. */
async function received(work: () => Promise<unknown>): Promise<string[]> {
  const before = receiver.requests.length;
  await work();
  return receiver.requests.slice(before).map(({ body }) => dataIn(body) as string);
}

/** Let a job go, and wait for its end. */
async function deliver(job: Awaited<ReturnType<typeof addRaw>>, stack: Stack = running) {
  const settled = stack.settled(job);
  await job.promote();
  return await settled;
}

describe("the numbers of an event", () => {
  test("arrive as the producer wrote them, those in texts and keys too", async () => {
    receiver.answer({ status: 200 });
    const bodies = await received(async () => await deliver(await addRaw(running, ODD)));
    expect(bodies).toEqual([ODD]);
  });

  test("are the same on every attempt, those by hand too", async () => {
    const data = '{"id":9007199254740993,"rate":1.10}';
    const statuses = [500, 429, 503, 500, 500, 200];
    const first = receiver.requests.length;
    receiver.answer((_, index) => ({ status: statuses[index - first] ?? 200 }));
    const job = await addRaw(running, data);
    const bodies = await received(async () => {
      expect((await deliver(job)).state).toBe("failed");
      const settled = running.settled(job);
      expect(await redeliver(running.queue, job.id as string)).toBe("queued");
      expect((await settled).state).toBe("completed");
    });
    expect(bodies).toEqual(statuses.map(() => data));
  });

  test("outlive a worker that died with their event", async () => {
    receiver.answer({ status: 200 });
    const stack = await startStack({ isIdle: true });
    const job = await addRaw(stack, '{"id":9007199254740993}');
    await job.promote();
    const dead = new Worker(stack.queue.name, null, { connection: stack.valkey, lockDuration: 1, stalledInterval: 1 });
    expect((await dead.getNextJob("dead"))?.id).toBe(job.id as string);
    await dead.startStalledCheckTimer();
    await eventually(
      () => job.getState(),
      (state) => state === "waiting",
    );
    await dead.close();
    const bodies = await received(async () => {
      stack.worker.run();
      await stack.settled(job);
    });
    await stack.stop();
    expect(bodies).toEqual(['{"id":9007199254740993}']);
  });

  test("are copied as they are by a job scheduler from one run to the next", async () => {
    receiver.answer({ status: 200 });
    const stack = await startStack({ isIdle: true });
    const { queue, valkey } = stack;
    const job = await queue.upsertJobScheduler("often", { every: 50 }, { name: "file.created", data: {} });
    const raw = written('{"id":9007199254740993}');
    await valkey.hset(queue.toKey(job?.id as string), "data", raw);
    await valkey.hset(queue.toKey("repeat:often"), "data", raw);
    const before = receiver.requests.length;
    stack.worker.run();
    const requests = await receiver.waitFor(before + 3);
    await stack.stop();
    expect(requests.slice(before).map(({ body }) => dataIn(body))).toEqual(Array(3).fill('{"id":9007199254740993}'));
  });

  test("may fill the largest body", async () => {
    receiver.answer({ status: 200 });
    const data = `{"n":[${Array.from({ length: 13_700 }, (_, index) => 9007199254740993n + BigInt(index) * 2n).join()}]}`;
    expect(data.length).toBeGreaterThan(230_000);
    const bodies = await received(async () => await deliver(await addRaw(running, data)));
    expect(bodies).toEqual([data]);
  });

  test("may stand as deep as others, and no deeper", async () => {
    receiver.answer({ status: 200 });
    const nested = (levels: number) => `${'{"a":'.repeat(levels)}9007199254740993${"}".repeat(levels)}`;
    const bodies = await received(async () => {
      expect((await deliver(await addRaw(running, nested(2_000)))).state).toBe("completed");
    });
    expect(bodies).toEqual([nested(2_000)]);
    for (const levels of [2_001, 100_000]) {
      const { state, job } = await deliver(await addRaw(running, nested(levels)));
      expect([state, job.failedReason]).toEqual(["failed", "data.data: expected at most 2000 levels of nesting"]);
    }
  });

  test("arrive as they are, however deep the data that is not sent", async () => {
    receiver.answer({ status: 200 });
    const more = `, "note": ${"[".repeat(100_000)}${"]".repeat(100_000)}`;
    const raw = written('{"id":9007199254740993}', receiver.url(), more);
    const bodies = await received(async () => await deliver(await addRaw(running, "", raw)));
    expect(bodies).toEqual(['{"id":9007199254740993}']);
  });

  test("are kept when the package enqueues them with JSON.rawJSON", async () => {
    receiver.answer({ status: 200 });
    const { rawJSON } = JSON as unknown as { rawJSON(text: string): unknown };
    const fluxhook = createFluxhook({ valkeyUrl: await testValkeyUrl(), queue: running.queue.name });
    const id = crypto.randomUUID();
    const { endpoint, userId } = jobData(receiver.url());
    const bodies = await received(async () => {
      const data = { id: rawJSON("9007199254740993") };
      await fluxhook.enqueue({ event: "file.created", id, userId, endpoint, data });
      await running.settled({ id });
    });
    await fluxhook.close();
    expect(bodies).toEqual(['{"id":9007199254740993}']);
  });

  test("are kept when the command sends them", async () => {
    receiver.answer({ status: 200 });
    const fluxhook = createCommand({ VALKEY_URL: await testValkeyUrl(), WEBHOOK_QUEUE: running.queue.name, SECRET });
    const args = ["--event", "file.created", "--url", receiver.url(), "--user", "usr_1", "--secret-env", "SECRET"];
    const bodies = await received(async () => {
      const { err, code } = await fluxhook(["send", ...args, "--data", '{"id": 9007199254740993}', "--wait"]);
      expect([err, code]).toEqual(["", 0]);
    });
    expect(bodies).toEqual(['{"id":9007199254740993}']);
  }, 60_000);
});

test("fluxhook verify knows a body that was written anew, whatever its numbers", () => {
  const [id, nowMs] = [crypto.randomUUID(), Date.now()];
  const body = buildBody(id, "file.created", nowMs, parseExact(ODD) as object);
  const endpoint = { url: new URL("http://h/in"), secrets: [SECRET] as [string] };
  const event = { id, type: "file.created", timestampMs: nowMs, userId: "usr_1", endpoint, body };
  const { head } = buildRequest(event, id, nowMs);
  const saved = parseRequest(writeRequest("/in", head.trimEnd().split(/: |\r\n/), body)) as SavedRequest;
  const spaced = Buffer.from(`${body}`.replaceAll('":', '": '));
  const check = checkRequest({ ...saved, body: spaced }, [SECRET], { nowMs, toleranceMs: 60_000 });
  expect(check.hint).toContain("The signature matches the body as compact JSON");
});

describe("a number that is no object", () => {
  test.each([
    ["for data", written("9007199254740993"), "data.data: expected a JSON object"],
    [
      "for the endpoint",
      '{"userId":"usr_1","endpoint":1.0,"data":{}}',
      "data.endpoint.url: expected a string; data.endpoint.secret: expected a secret, or an array of 1 to 10 of them",
    ],
    [
      "for all",
      "9007199254740993",
      "data.userId: expected a string; data.endpoint: expected an object with url and secret, or with the id of a registered endpoint; data.data: expected a JSON object",
    ],
  ])("breaks the contract, however large: %s", async (_where, raw, reason) => {
    const { state, job } = await deliver(await addRaw(running, "", raw));
    expect([state, job.failedReason]).toEqual(["failed", reason]);
  });
});

describe("Bull Board", () => {
  const shown = {
    id: "9007199254740993",
    list: ["18446744073709551615", ["-0", "-0.0"], "1e400", "-1E+5"],
    rate: "0.1234567890123456789",
    price: "1.10",
    one: "1.0",
    text: "id: 9007199254740993, [1.0]",
    ["__proto__"]: { n: 1e-7 },
    "9007199254740993": [],
    plain: [0, -1, 1.5, 9007199254740991, 0.30000000000000004],
  };
  const ask = async (path: string) => (await board.request(path)).json();

  test("shows every digit of a number that a browser would read differently, as a text", async () => {
    const name = idle.queue.name;
    const { job } = (await ask(`/api/queues/${name}/${odd.id}`)) as { job: { data: { data: unknown } } };
    expect(job.data.data).toEqual(shown);
    const page = (await ask(`/api/queues?activeQueue=${name}&status=delayed&page=1&jobsPerPage=10`)) as {
      queues: [{ jobs: [typeof job] }];
    };
    expect(page.queues[0].jobs[0].data.data).toEqual(shown);
  });

  test("shows them of a job scheduler too", async () => {
    await idle.queue.upsertJobScheduler("yearly", { every: 31_536_000_000 }, { name: "file.created", data: {} });
    await idle.valkey.hset(idle.queue.toKey("repeat:yearly"), "data", written(ODD));
    const { schedulers } = (await ask("/api/job-schedulers")) as {
      schedulers: { template: { data: { data: unknown } } }[];
    };
    expect(schedulers.map(({ template }) => template.data.data)).toEqual([shown]);
  });
});
