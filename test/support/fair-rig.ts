/** A queue in a real Valkey, as the fair queue's script finds it. */
import { afterEach } from "bun:test";
import { Queue } from "bullmq";
import { SCAN } from "../../src/isolation/fair-queue-script.ts";
import { queueKey, queueKeys } from "../../src/queue/layout.ts";
import { connectValkey } from "../../src/valkey/connection.ts";
import type { Ask, Line } from "../isolation/fair-model.ts";
import { jobData } from "./stack.ts";
import { testValkeyUrl } from "./valkey.ts";

/** What ends with the test, the last one first. */
export const open: { stop(): Promise<unknown> }[] = [];

/** Call this once in a file that uses a rig. */
export function closeAfterEach(): void {
  afterEach(async () => {
    for (const { stop } of open.splice(0).reverse()) await stop();
  });
}

type LookAt = (
  ...args: unknown[]
) => Promise<[seen: number, moved: number, left: number, goesOn: number, last: string]>;

/** A queue that nobody works on. */
export async function setUp(url?: string) {
  const name = `fair-${crypto.randomUUID()}`;
  const valkey = connectValkey(url ?? (await testValkeyUrl()), "test:fair", { info() {}, warn() {} });
  const queue = new Queue(name, { connection: valkey });
  open.push({
    async stop() {
      await queue.close();
      valkey.disconnect();
    },
  });
  valkey.defineCommand("scanQueue", { numberOfKeys: 5, lua: SCAN });
  const { scanQueue } = valkey as unknown as { scanQueue: LookAt };
  const { wait, prioritized, marker, meta, jobs } = queueKeys(queueKey(name));
  const tags = `${queueKey(name)}:fair:tags`;
  return {
    name,
    valkey,
    queue,
    keys: { wait, prioritized, marker, meta, jobs, tags },
    /** One look. */
    look: ({ size = 1_000, behind = "", giveBack = 0, troubled = [] }: Partial<Ask> = {}) =>
      scanQueue
        .call(valkey, wait, prioritized, marker, meta, tags, jobs, size, behind, giveBack, ...troubled)
        .then(([seen, moved, left, goesOn, last]) => ({ seen, moved, left, goesOn: goesOn === 1, last })),
    async line(): Promise<Line> {
      const scores = await valkey.zrange(prioritized, "0", "-1", "WITHSCORES");
      return {
        wait: await valkey.lrange(wait, 0, -1),
        prioritized: new Map(scores.flatMap((id, i) => (i % 2 ? [] : [[id, Number(scores[i + 1])]]))),
        tags: new Map(Object.entries(await valkey.hgetall(tags)).map(([flow, tag]) => [flow, Number(tag)])),
      };
    },
    /** Add jobs of these users, each to a URL of its own unless told otherwise. */
    async add(users: readonly string[], url = (index: number) => `https://${index}.example/in`, opts = {}) {
      const jobs = users.map((userId, i) => ({ name: "file.created", data: jobData(url(i), { userId }), opts }));
      return (await queue.addBulk(jobs)).map(({ id }) => id as string);
    },
    /** A job with data that no BullMQ client would write. */
    async addRaw(id: string, data: string) {
      await valkey.hset(`${jobs}${id}`, { name: "file.created", data, opts: "{}", timestamp: "1" });
      await valkey.lpush(wait, id);
      return id;
    },
  };
}

export type Rig = Awaited<ReturnType<typeof setUp>>;

export const users = (count: number, from = 0) => Array.from({ length: count }, (_, i) => `usr_${from + i}`);
export const many = (user: string, count: number) => Array<string>(count).fill(user);
/** The next job first. */
export const waiting = async (rig: Rig) => [...(await rig.line()).wait].reverse();
