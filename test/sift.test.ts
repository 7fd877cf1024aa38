import { afterEach, describe, expect, test } from "bun:test";
import { Queue } from "bullmq";
import { type Receiver, startReceiver } from "../src/dev/receiver.ts";
import { type Line, type Turns, turnsOf } from "../src/line.ts";
import type { Span } from "../src/parked-turns.ts";
import { queueKey } from "../src/queue.ts";
import { createSifter } from "../src/sift.ts";
import { connectValkey, type Valkey } from "../src/valkey.ts";
import { bounded, eventually, jobData, startStack } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const THEIRS = "https://customer.example/in";
const ENOUGH = 100; // calls after which a sifter has long begun
const EPOCH_MS = 1_760_000_000_000;
const LAST = EPOCH_MS + 1e7; // a turn beyond all of them

const open: { stop(): Promise<void> }[] = [];
afterEach(async () => {
  for (const { stop } of open.splice(0).reverse()) await stop();
});

/** A queue that nobody works on, and a sifter for it with a line of the test's own. */
async function setUp(given: Partial<Line> = {}) {
  const name = `sift-${crypto.randomUUID()}`;
  const valkey: Valkey = connectValkey(await testValkeyUrl(), "test:sift", { info() {}, warn() {} } as never);
  const queue = new Queue(name, { connection: valkey });
  open.push({
    async stop() {
      await queue.close();
      valkey.disconnect();
    },
  });

  const joined: number[] = [];
  const advanced: { endpoint: string; left: Span | undefined }[] = [];
  const sifted: { endpoints: number; moved: number; seen: number }[] = [];
  const noted: number[] = [];
  const underWay: boolean[] = [];
  const cleared: number[] = [];
  let line: Line = {
    owner: sifted,
    startAt: EPOCH_MS,
    from: EPOCH_MS + 1_000,
    spacingMs: 10,
    horizonAt: EPOCH_MS + 1e9,
    joined: () => {},
    ...given,
  };
  const owners: Record<string, object> = {};
  const ownerOf = (endpoint: string) => {
    owners[endpoint] ??= {};
    return given?.owner ?? owners[endpoint];
  };
  let asked = 0;
  let pieces = Number.POSITIVE_INFINITY;
  let betweenPieces = (_asked: number): void => {};
  const sifter = createSifter({
    valkey,
    prefix: queueKey(name),
    gate: {
      line: (endpoint) => {
        asked += 1;
        betweenPieces(asked);
        return asked > pieces ? undefined : { ...line, owner: ownerOf(endpoint) };
      },
      joined(_, count, { from, spacingMs, ...rest }) {
        joined.push(count);
        line = { ...rest, spacingMs, from: from + count * spacingMs };
      },
      advanced: (endpoint, left) => void advanced.push({ endpoint, left }),
    },
    logger: {
      debug(fields: { endpoints: number; moved: number; seen: number; noted: number }, message: string) {
        if (message === "queue.noted") noted.push(fields.noted);
        else sifted.push(fields);
      },
    } as never,
    onSift: (isUnderWay) => void underWay.push(isUnderWay),
    onCleared: (jobs) => void cleared.push(jobs),
    now: () => EPOCH_MS,
  });
  return {
    queue,
    valkey,
    sifter,
    /** Of which endpoints it called jobs forward, and what it left. */
    advanced,
    joined,
    sifted,
    /** What it said of sifts that began and ended. */
    underWay,
    /** How many jobs that may go it left after each piece. */
    cleared,
    /** How many jobs each sift had noted at its end. */
    noted,
    /** Call the sifter as for so many jobs that may not go, of an endpoint that answers unless told otherwise. */
    call: (times = ENOUGH, url = THEIRS, isProven = true) => {
      for (let i = 0; i < times; i++) sifter.held(url, isProven);
    },
    /** The endpoint may go again after so many pieces. */
    closeLineAfter: (count: number) => {
      pieces = count;
    },
    /** Called each time that it asks for the line, before a piece. */
    onPiece: (call: (asked: number) => void) => {
      betweenPieces = call;
    },
    /** How often it asked for the line. */
    timesAsked: () => asked,
    /** Sift until nothing moves any more. */
    async sift(url = THEIRS) {
      const before = noted.length;
      for (let i = 0; i < ENOUGH; i++) sifter.held(url, true);
      await eventually(
        () => noted.length,
        (length) => length > before,
      );
      await valkey.ping();
    },
    /** The ids in wait, the next one first. */
    waiting: async () => (await valkey.lrange(queue.toKey("wait"), 0, -1)).reverse(),
    /** The ids in delayed and their turns, in order. */
    async delayed() {
      const flat = await valkey.zrange(queue.toKey("delayed"), "0", "-1", "WITHSCORES");
      return Array.from({ length: flat.length / 2 }, (_, index) => ({
        id: flat[2 * index] as string,
        turnAt: Math.floor(Number(flat[2 * index + 1]) / 0x1000),
      }));
    },
    async add(...datas: unknown[]) {
      const jobs = await queue.addBulk(datas.map((data) => ({ name: "file.created", data })));
      return jobs.map(({ id }) => id as string);
    },
    /** Put a job into wait with data that no BullMQ client would write. */
    async addRaw(id: string, data: string) {
      await valkey.hset(queue.toKey(id), { name: "file.created", data, opts: "{}", timestamp: String(EPOCH_MS) });
      await valkey.lpush(queue.toKey("wait"), id);
      return id;
    },
  };
}

const theirs = (count: number) => Array.from({ length: count }, () => jobData(THEIRS));
const others = (count: number) =>
  Array.from({ length: count }, (_, index) => jobData(`https://other-${index}.example/in`));

describe("sifting", () => {
  test("moves one endpoint's jobs to delayed at their turns, and leaves the others in their exact order", async () => {
    const rig = await setUp();
    const ids = await rig.add(
      ...Array.from({ length: 300 }, (_, index) => (index % 3 === 0 ? others(1) : theirs(1))[0]),
    );
    const kept = ids.filter((_, index) => index % 3 === 0);
    const moved = ids.filter((_, index) => index % 3 !== 0);
    await rig.sift();
    expect(await rig.waiting()).toEqual(kept);
    expect(await rig.delayed()).toEqual(moved.map((id, index) => ({ id, turnAt: EPOCH_MS + 1_000 + index * 10 })));
    expect(rig.joined).toEqual([200]);
    expect(rig.underWay).toEqual([true, false]);
  });

  test("counts as a pick-up, so that they go before fresh ones, and leaves the rest of a job alone", async () => {
    const rig = await setUp();
    const [mine, other] = (await rig.add(...theirs(1), ...others(1))) as [string, string];
    const stored = (id: string) => rig.valkey.hgetall(rig.queue.toKey(id));
    const [before, untouched] = [await stored(mine), await stored(other)];
    await rig.sift();
    expect(await stored(mine)).toEqual({ ...before, ats: "1", delay: "1000", parked: String(EPOCH_MS + 1_000) });
    expect(await stored(other)).toEqual(untouched);
    await rig.valkey.hset(rig.queue.toKey(mine), "ats", "7");
    await (await rig.queue.getJob(mine))?.promote();
    await rig.sift();
    expect((await stored(mine)).ats).toBe("8");
  });

  test("notes those whose turn is further off when all are out of the way", async () => {
    const rig = await setUp();
    const ids = await rig.add(...theirs(3_300), ...others(1));
    const [early, late, gone, failed] = [0, 3_200, 3_201, 3_202].map((index) => ids[index] as string) as [
      ...[string, string, string, string],
    ];
    const field = (id: string, name: string) => rig.valkey.hget(rig.queue.toKey(id), name);
    let atEnd: Promise<(string | null)[]> | undefined;
    rig.onPiece((asked) => {
      if (asked !== 3) return;
      atEnd = Promise.all([field(early, "parked"), field(late, "parked")]);
      // Meanwhile one was done with, and another failed and is delayed for its retry.
      rig.valkey.zrem(rig.queue.toKey("delayed"), gone);
      rig.valkey.del(rig.queue.toKey(gone));
      rig.valkey.hset(rig.queue.toKey(failed), "delay", 60_000);
      rig.valkey.zadd(rig.queue.toKey("delayed"), (EPOCH_MS + 60_000) * 0x1000, failed);
    });
    await rig.add(...theirs(4_000)); // pieces enough
    await rig.sift();
    expect(await atEnd).toEqual([String(EPOCH_MS + 1_000), null]);
    expect(rig.noted).toEqual([7_300 - 100 - 2]); // the first hundred within two seconds
    expect(await field(late, "parked")).toBe(String(EPOCH_MS + 1_000 + 32_000));
    expect(await field(late, "delay")).toBe("33000");
    expect(await field(late, "ats")).toBe("1");
    expect(await rig.valkey.exists(rig.queue.toKey(gone))).toBe(0);
    expect(await field(failed, "parked")).toBeNull();
  });

  test("begins to note those of a very long queue before it is through", async () => {
    const rig = await setUp();
    const ids: string[] = [];
    for (let count = 0; count < 33_000; count += 3_000) ids.push(...(await rig.add(...theirs(3_000))));
    let meanwhile: Promise<string | null> | undefined;
    rig.onPiece((asked) => {
      if (asked === 12) meanwhile = rig.valkey.hget(rig.queue.toKey(ids[200] as string), "parked");
    });
    await rig.sift();
    expect(await meanwhile).toBe(String(EPOCH_MS + 1_000 + 2_000));
    expect(await rig.waiting()).toEqual([]);
    expect(rig.noted.reduce((sum, count) => sum + count)).toBe(33_000 - 100);
  });

  test("wakes the workers for the first turn", async () => {
    const rig = await setUp();
    await rig.add(...theirs(50), ...others(1));
    await rig.valkey.del(rig.queue.toKey("marker"));
    await rig.sift();
    const [first] = await rig.delayed();
    const marker = await rig.valkey.zrange(rig.queue.toKey("marker"), "0", "-1", "WITHSCORES");
    expect(marker[0]).toBe("1");
    expect(Math.floor(Number(marker[1]))).toBe(first?.turnAt as number);
  });

  test("gives those beyond the horizon turns in the second half of the way there", async () => {
    const rig = await setUp({ spacingMs: 1_000, horizonAt: EPOCH_MS + 11_000 });
    await rig.add(...theirs(500));
    await rig.sift();
    const turns = (await rig.delayed()).map(({ turnAt }) => turnAt - EPOCH_MS);
    expect(turns).toHaveLength(500);
    expect(turns.filter((turn) => turn < 5_500).length).toBeLessThanOrEqual(5);
    expect(Math.max(...turns)).toBeLessThanOrEqual(11_000);
    expect(turns.filter((turn) => turn >= 8_000).length).toBeGreaterThan(200); // spread out, not heaped
  });

  test("goes through a queue of many thousands, a piece at a time, as long as it is worth it", async () => {
    const rig = await setUp();
    const ids = await rig.add(...Array.from({ length: 7_000 }, (_, index) => (index % 2 ? others(1) : theirs(1))[0]));
    await rig.sift();
    expect(rig.sifted).toMatchObject([
      { moved: 500, seen: 1_000 },
      { moved: 750, seen: 1_500 }, // each piece is larger, and begins behind what the one before it left
      { moved: 1_125, seen: 2_250 },
      { moved: 1_125, seen: 2_250 }, // the rest, of 3,000 that were asked for
    ]);
    const waiting = await rig.waiting();
    const delayed = (await rig.delayed()).map(({ id }) => id);
    expect(waiting.length + delayed.length).toBe(7_000);
    expect(new Set([...waiting, ...delayed])).toEqual(new Set(ids));
    expect(waiting).toEqual(ids.filter((id) => waiting.includes(id))); // in order
    expect(delayed).toEqual(ids.filter((_, index) => index % 2 === 0));
    expect(rig.joined.reduce((sum, count) => sum + count)).toBe(delayed.length);
  });

  test("twice does no harm", async () => {
    const rig = await setUp();
    const ids = await rig.add(...theirs(20), ...others(20), ...theirs(20));
    await rig.sift();
    const after = [await rig.waiting(), await rig.delayed()];
    await rig.sift();
    expect([await rig.waiting(), await rig.delayed()]).toEqual(after);
    expect(await rig.waiting()).toEqual(ids.slice(20, 40));
  });

  test("of an empty queue, or of one without such jobs, changes nothing", async () => {
    const rig = await setUp();
    await rig.sift();
    expect(await rig.valkey.exists(rig.queue.toKey("wait"), rig.queue.toKey("delayed"))).toBe(0);
    const ids = await rig.add(...others(30));
    await rig.sift();
    expect(await rig.waiting()).toEqual(ids);
    expect(await rig.delayed()).toEqual([]);
  });

  test("takes a job whose data is too deep for Valkey, when its URL stands where JSON.stringify puts it", async () => {
    const rig = await setUp();
    const data = JSON.stringify(jobData(THEIRS)).replace(
      '"data":{',
      `"data":{"x":${"[".repeat(2_000)}${"]".repeat(2_000)},`,
    );
    const id = await rig.addRaw("raw-1", data);
    await rig.sift();
    expect((await rig.delayed()).map((job) => job.id)).toEqual([id]);
    expect(await rig.waiting()).toEqual([]);
  });

  test("begins at the head again when what it had left there has been taken", async () => {
    const rig = await setUp();
    const ids = await rig.add(...Array.from({ length: 6_000 }, (_, index) => (index % 2 ? others(1) : theirs(1))[0]));
    rig.closeLineAfter(1);
    rig.call();
    await eventually(
      () => rig.timesAsked(),
      (asked) => asked === 2,
    );
    await eventually(
      () => rig.noted.length,
      (sifts) => sifts === 1,
    );
    await rig.valkey.ltrim(rig.queue.toKey("wait"), 0, -1 - 500); // a worker took what was left
    rig.closeLineAfter(Number.POSITIVE_INFINITY);
    await rig.sift();
    expect(await rig.waiting()).toEqual(ids.slice(1_000).filter((_, index) => index % 2));
    expect((await rig.delayed()).length).toBe(3_000);
  });

  test("ends when the endpoint may go again", async () => {
    const rig = await setUp();
    const ids = await rig.add(...theirs(4_500));
    rig.closeLineAfter(1);
    rig.call();
    await eventually(
      () => rig.timesAsked(),
      (asked) => asked === 2, // and the second time there was no line any more
    );
    expect(rig.sifted).toMatchObject([{ moved: 1_000, seen: 1_000 }]);
    expect(await rig.waiting()).toEqual(ids.slice(1_000));
  });

  test("moves the jobs of all endpoints that are in the way together, each endpoint's in a line of its own", async () => {
    const rig = await setUp();
    const urls = [THEIRS, "https://a.example/in", "https://b.example/in?token=1", "https://c.example/in"];
    const ids = await rig.add(...Array.from({ length: 400 }, (_, index) => jobData(urls[index % 4] as string)));
    const idsOf = (url: number) => ids.filter((_, index) => index % 4 === url);
    rig.call(10, THEIRS, false);
    rig.call(10, "https://a.example/in", false);
    rig.call(12, "https://b.example/in", false);
    await eventually(
      () => rig.noted.length,
      (sifts) => sifts === 1,
    );
    expect(rig.joined).toEqual([100, 100, 100]);
    expect(await rig.waiting()).toEqual(idsOf(3));
    const delayed = await rig.delayed();
    for (const url of [0, 1, 2]) {
      const turns = delayed.filter(({ id }) => idsOf(url).includes(id));
      expect(turns).toEqual(idsOf(url).map((id, index) => ({ id, turnAt: EPOCH_MS + 1_000 + index * 10 })));
    }
    expect(rig.sifted).toMatchObject([{ endpoints: 3, moved: 300, seen: 400 }]);
    expect(rig.cleared).toEqual([100]);
  });

  test("and those of endpoints that are in one line have its turns by rounds", async () => {
    const rig = await setUp({ owner: {} });
    const urls = [THEIRS, "https://a.example/in", "https://b.example/in"];
    const ids = await rig.add(...Array.from({ length: 300 }, (_, index) => jobData(urls[index % 3] as string)));
    for (const url of urls) rig.call(11, url, false);
    await eventually(
      () => rig.noted.length,
      (sifts) => sifts === 1,
    );
    expect(rig.joined).toEqual([100, 100, 100]);
    expect(await rig.delayed()).toEqual(ids.map((id, index) => ({ id, turnAt: EPOCH_MS + 1_000 + index * 10 })));
  });

  test("leaves an endpoint's jobs alone that had to wait now and then, or answers and had to now and then", async () => {
    const rig = await setUp();
    const [rare, steady] = ["https://rare.example/in", "https://steady.example/in"];
    const ids = await rig.add(jobData(rare), jobData(steady), ...theirs(1));
    rig.call(3, rare, false);
    rig.call(20, steady, true);
    rig.call(9, THEIRS, false);
    await eventually(
      () => rig.noted.length,
      (sifts) => sifts === 1,
    );
    expect(await rig.waiting()).toEqual(ids.slice(0, 2));
    expect((await rig.delayed()).map(({ id }) => id)).toEqual(ids.slice(2));
  });

  test("goes on to the end with endpoints that turn out to be in the way meanwhile", async () => {
    const rig = await setUp();
    const other = "https://other.example/in";
    const mix = Array.from({ length: 9_000 }, (_, index) => jobData(index % 3 === 0 ? THEIRS : other));
    for (let start = 0; start < mix.length; start += 3_000) await rig.add(...mix.slice(start, start + 3_000));
    rig.onPiece((asked) => {
      if (asked === 2) rig.call(4, other, false);
    });
    rig.call(32);
    await eventually(
      () => rig.noted.length,
      (sifts) => sifts === 1,
    );
    expect(rig.sifted.map(({ moved }) => moved)).toEqual([334, 1_500, 2_250, 3_000, 1_250]);
    expect(await rig.waiting()).toHaveLength(666); // those before it was known: for the next sift
    rig.call(32, other, false);
    await eventually(
      () => rig.noted.length,
      (sifts) => sifts === 2,
    );
    expect(await rig.waiting()).toEqual([]);
  });

  test("does not begin for a job now and then", async () => {
    const rig = await setUp();
    await rig.add(...theirs(50));
    for (let i = 0; i < 10; i++) rig.call(1);
    for (let i = 0; i < 20; i++) rig.call(1, `https://other-${i}.example/`);
    expect(rig.timesAsked()).toBe(0);
    expect(await rig.delayed()).toEqual([]);
  });
});

describe("advancing", () => {
  /** A rig with so many of their jobs parked, and one that is delayed for a retry. */
  async function parkedRig(count: number) {
    const rig = await setUp();
    const ids = await rig.add(...theirs(count));
    await rig.sift();
    const retry = (await rig.queue.add("file.created", jobData(THEIRS), { delay: 60_000 })).id as string;
    await rig.valkey.zadd(rig.queue.toKey("delayed"), (EPOCH_MS + 1_500) * 0x1000, retry);
    const advance = async (jobs: number, first = 0) => {
      const before = rig.sifted.length;
      rig.sifter.advance(THEIRS, jobs, { first, last: LAST });
      await eventually(
        () => rig.sifted.length,
        (length) => length > before,
      );
      return rig.sifted.at(-1);
    };
    const due = async () => (await rig.delayed()).filter(({ turnAt }) => turnAt <= EPOCH_MS).map(({ id }) => id);
    return { ...rig, ids, retry, advance, due };
  }

  test("gives the next of an endpoint's parked jobs their turn now, in their order, and wakes the workers", async () => {
    const rig = await parkedRig(200);
    await rig.valkey.del(rig.queue.toKey("marker"));
    expect(await rig.advance(30)).toMatchObject({ moved: 30 });
    expect(await rig.due()).toEqual(rig.ids.slice(0, 30));
    expect(await rig.valkey.zrange(rig.queue.toKey("marker"), "0", "-1", "WITHSCORES")).toEqual([
      "1",
      String(EPOCH_MS),
    ]);
    expect(await rig.advance(20)).toMatchObject({ moved: 20 });
    expect((await rig.due()).toSorted()).toEqual(rig.ids.slice(0, 50).toSorted());
    const firsts = [29, 49].map((index) => EPOCH_MS + 1_000 + index * 10); // it was the last to be looked at
    expect(rig.advanced.map(({ left }) => Math.floor(left?.first as number))).toEqual(firsts);
    expect(rig.advanced.map(({ left }) => left?.last)).toEqual([LAST, LAST]);
  });

  test("gives it to those too that have not been noted yet", async () => {
    const rig = await setUp();
    const [id] = (await rig.add(...theirs(1))) as [string];
    await rig.valkey.del(rig.queue.toKey("wait"));
    await rig.valkey.zadd(rig.queue.toKey("delayed"), (EPOCH_MS + 5_000) * 0x1000, id); // what a sift does, at first
    rig.sifter.advance(THEIRS, 10, { first: 0, last: LAST });
    await eventually(rig.delayed, ([job]) => job?.turnAt === EPOCH_MS);
  });

  test("leaves a job that waits for its retry, and one that was parked before that, to their time", async () => {
    const rig = await parkedRig(100);
    const [once] = rig.ids as [string];
    await rig.valkey.zadd(rig.queue.toKey("delayed"), (EPOCH_MS + 1_200) * 0x1000, once); // failed since, and delayed anew
    await rig.advance(500);
    const due = await rig.due();
    expect(due).toEqual(rig.ids.slice(1));
    expect(due).not.toContain(rig.retry);
  });

  test("says when there is nothing left that is worth looking for", async () => {
    const rig = await parkedRig(40);
    await rig.advance(500);
    await rig.advance(500);
    expect(rig.advanced).toEqual(Array(2).fill({ endpoint: THEIRS, left: undefined }));
    expect(await rig.due()).toHaveLength(40);
  });

  test("begins at the turn it is told, and so finds those behind many of the others'", async () => {
    const rig = await parkedRig(300);
    expect(await rig.advance(10, EPOCH_MS + 1_000 + 200 * 10)).toMatchObject({ moved: 10, seen: 10 });
    expect(await rig.due()).toEqual(rig.ids.slice(200, 210));
  });

  test("looks no further than it is told", async () => {
    const rig = await parkedRig(100);
    rig.sifter.advance(THEIRS, 100, { first: EPOCH_MS + 1_100, last: EPOCH_MS + 1_190 });
    await eventually(
      () => rig.advanced,
      (advanced) => advanced.length === 1,
    );
    expect(await rig.due()).toEqual(rig.ids.slice(10, 20));
    expect(rig.advanced).toEqual([{ endpoint: THEIRS, left: undefined }]);
  });

  test("goes on behind the others' next time, and gives up when it has found too few among those ten times", async () => {
    const rig = await setUp();
    const [few, many] = ["https://few.example/in", "https://many.example/in"];
    const ids = await rig.add(
      ...Array.from({ length: 1_000 }, (_, index) => jobData(index === 300 ? few : index % 50 === 0 ? many : THEIRS)),
    );
    for (const url of [few, many, THEIRS]) rig.call(4, url, false);
    await rig.sift();
    const advance = async (url: string, from: number) => {
      const before = rig.advanced.length;
      rig.sifter.advance(url, 100, { first: from, last: LAST });
      await eventually(
        () => rig.advanced.length,
        (length) => length > before,
      );
      return rig.advanced.at(-1)?.left;
    };
    expect(await rig.waiting()).toEqual([]);
    for (let times = 1; times < 10; times++) expect(await advance(few, 0)).toBeDefined();
    expect(await advance(few, 0)).toBeUndefined();
    expect(await advance(few, 0)).toBeDefined(); // for parked jobs of a later time
    const left = (await advance(many, 0)) as Span;
    expect(left.last).toBe(LAST);
    expect(left.first).toBeGreaterThan(EPOCH_MS + 4_000);
    await advance(many, left.first);
    const due = (await rig.delayed()).filter(({ turnAt }) => turnAt <= EPOCH_MS).map(({ id }) => id);
    expect(due.toSorted()).toEqual(
      [...ids.filter((_, index) => index % 50 === 0 && index !== 300), ids[300]].toSorted() as string[],
    );
  });

  test("finds the first of a line that begins within a millisecond", async () => {
    const line: Turns = { startAt: EPOCH_MS, from: EPOCH_MS + 1_000.7, spacingMs: 10, horizonAt: LAST };
    const rig = await setUp(line);
    const ids = await rig.add(...theirs(5));
    await rig.sift();
    rig.sifter.advance(THEIRS, 100, turnsOf(line, 5));
    await eventually(
      () => rig.advanced,
      (advanced) => advanced.length === 1,
    );
    expect(await rig.delayed()).toEqual(ids.map((id) => ({ id, turnAt: EPOCH_MS })));
  });

  test("gives back what it was asked for while it is at something else, or cannot", async () => {
    const rig = await parkedRig(20);
    const turns = { first: 0, last: LAST };
    rig.sifter.advance(THEIRS, 5, turns);
    rig.sifter.advance(THEIRS, 5, turns);
    expect(rig.advanced).toEqual([{ endpoint: THEIRS, left: turns }]); // the second, at once
    await eventually(
      () => rig.advanced,
      (advanced) => advanced.length === 2,
    );
    expect(await rig.due()).toHaveLength(5);
    await rig.valkey.del(rig.queue.toKey("delayed"));
    await rig.valkey.set(rig.queue.toKey("delayed"), "no sorted set");
    rig.sifter.advance(THEIRS, 5, turns);
    await eventually(
      () => rig.advanced,
      (advanced) => advanced.length === 3,
    );
    expect(rig.advanced[2]).toEqual({ endpoint: THEIRS, left: turns });
  });

  test("leaves other endpoints' parked jobs where they are", async () => {
    const rig = await setUp();
    const ids = await rig.add(...theirs(20));
    await rig.sift();
    rig.sifter.advance("https://customer.example/other", 100, { first: 0, last: LAST });
    await eventually(
      () => rig.advanced,
      (advanced) => advanced.length === 1,
    );
    expect((await rig.delayed()).map(({ id, turnAt }) => [id, turnAt > EPOCH_MS])).toEqual(ids.map((id) => [id, true]));
  });
});

describe("a job of the endpoint is found", () => {
  test.each([
    ["as JavaScript writes it", (url: string) => JSON.stringify(jobData(url))],
    ["as PHP does, with its slashes escaped", (url: string) => JSON.stringify(jobData(url)).replaceAll("/", "\\/")],
    [
      "as Python does, with spaces",
      (url: string) => JSON.stringify(jobData(url)).replaceAll('":', '": ').replaceAll(',"', ', "'),
    ],
    ["with a query", (url: string) => JSON.stringify(jobData(`${url}?token=1#top`))],
  ])("%s", async (_, write) => {
    const rig = await setUp();
    const id = await rig.addRaw("raw-1", write(THEIRS));
    await rig.sift();
    expect((await rig.delayed()).map((job) => job.id)).toEqual([id]);
  });

  test("without a path, which is the same as /", async () => {
    const rig = await setUp();
    await rig.addRaw("raw-1", JSON.stringify(jobData("https://customer.example")));
    await rig.addRaw("raw-2", JSON.stringify(jobData("https://customer.example/")));
    await rig.sift("https://customer.example/");
    expect((await rig.delayed()).map(({ id }) => id)).toEqual(["raw-1", "raw-2"]);
  });
});

describe("a job is left alone", () => {
  const text = JSON.stringify(jobData(THEIRS));
  test.each([
    ["that is another endpoint's at the same host", JSON.stringify(jobData("https://customer.example/in/deeper"))],
    ["whose path begins alike", JSON.stringify(jobData(`${THEIRS}side`))],
    ["of the same host by http", JSON.stringify(jobData("http://customer.example/in"))],
    ["of another port", JSON.stringify(jobData("https://customer.example:8443/in"))],
    ["of a host that ends alike", JSON.stringify(jobData("https://evil-customer.example/in"))],
    [
      "whose own data names the URL",
      JSON.stringify(jobData("https://o.example/", { data: { endpoint: { url: THEIRS } } })),
    ],
    ["whose data is too large to be decoded", JSON.stringify(jobData(THEIRS, { data: { text: "x".repeat(20_000) } }))],
    ["whose data is cut off", text.slice(0, -1)],
    ["whose data is cut off further", text.slice(0, -2)],
    [
      "whose data is nested too deeply for Valkey to look for the URL",
      `{"x":${"[".repeat(2_000)}${"]".repeat(2_000)},${text.slice(1)}`,
    ],
    ["whose data is a text", JSON.stringify(text)],
    ["whose data is a list", `[${text}]`],
    ["whose endpoint is a text", JSON.stringify({ endpoint: THEIRS })],
    ["whose URL is a number", '{"endpoint":{"url":7},"x":"customer.example"}'],
    ["whose URL is in a list", JSON.stringify({ endpoint: { url: [THEIRS] } })],
    ["whose endpoint is null", '{"endpoint":null,"x":"customer.example"}'],
    ["with a magic pattern for data", "%customer.example%([^"],
  ])("%s", async (_, data) => {
    const rig = await setUp();
    const id = await rig.addRaw("raw-1", data);
    const [good] = await rig.add(...theirs(1));
    await rig.sift();
    expect(await rig.waiting()).toEqual([id]);
    expect((await rig.delayed()).map((job) => job.id)).toEqual([good as string]);
    expect(await rig.valkey.hget(rig.queue.toKey(id), "data")).toBe(data);
  });

  test.each<[string, (key: string, valkey: Valkey) => Promise<unknown>]>([
    ["whose key is no job", (key, valkey) => valkey.set(key, text)],
    ["whose key is a list", (key, valkey) => valkey.rpush(key, text)],
  ])("%s, and those around it are sifted none the less", async (_, harm) => {
    const rig = await setUp();
    const before = await rig.add(...theirs(3));
    await harm(rig.queue.toKey("odd"), rig.valkey);
    await rig.valkey.lpush(rig.queue.toKey("wait"), "odd");
    const after = await rig.add(...theirs(3));
    await rig.sift();
    expect(await rig.waiting()).toEqual(["odd"]);
    expect((await rig.delayed()).map(({ id }) => id)).toEqual([...before, ...after]);
  });

  test("in no list but one, also when its count of pick-ups is no number", async () => {
    const rig = await setUp();
    const ids = await rig.add(...theirs(3), ...others(1), ...theirs(3));
    await rig.valkey.hset(rig.queue.toKey(ids[1] as string), "ats", "many");
    await rig.sift();
    expect(await rig.waiting()).toEqual([ids[3] as string]);
    expect((await rig.delayed()).map(({ id }) => id)).toEqual(ids.toSpliced(3, 1));
  });

  test("that has no data, or is no job any more", async () => {
    const rig = await setUp();
    await rig.valkey.lpush(rig.queue.toKey("wait"), "gone");
    await rig.valkey.hset(rig.queue.toKey("bare"), { name: "file.created" });
    await rig.valkey.lpush(rig.queue.toKey("wait"), "bare");
    await rig.sift();
    expect(await rig.waiting()).toEqual(["gone", "bare"]);
  });
});

test("a backlog of one endpoint is sifted while the worker runs, and everything is delivered, once", async () => {
  const receiver = async (delayMs: number): Promise<Receiver> => {
    const started = await startReceiver();
    open.push(started);
    started.answer({ delayMs });
    return started;
  };
  const [slow, quick] = [await receiver(60), await receiver(0)];
  const system = await startStack({ concurrency: 32, isIdle: true });
  open.push(system);
  const SLOW = 700;
  const QUICK = 100;
  const job = (url: string) => ({ name: "file.created", data: jobData(url) });
  await system.queue.addBulk(Array.from({ length: SLOW }, () => job(slow.url("/in"))));
  await system.queue.addBulk(Array.from({ length: QUICK }, () => job(quick.url("/in"))));
  let mostDelayed = 0;
  const watch = setInterval(async () => {
    mostDelayed = Math.max(mostDelayed, await system.valkey.zcard(system.queue.toKey("delayed")));
  }, 10);
  open.push({ stop: async () => clearInterval(watch) });

  system.worker.run();
  await bounded(quick.waitFor(QUICK, 10_000), () => "the quick ones", 10_000);
  const slowAtThatTime = slow.requests.length;
  await bounded(slow.waitFor(SLOW, 15_000), () => `the slow ones, got ${slow.requests.length}`, 15_000);
  await eventually(
    () => system.queue.getCompletedCount(),
    (count) => count === SLOW + QUICK,
  );
  expect(slowAtThatTime).toBeLessThan(SLOW / 2); // they did not wait behind the backlog
  expect(mostDelayed).toBeGreaterThan(SLOW / 4);
  expect(slow.requests).toHaveLength(SLOW);
  expect(new Set([...slow.requests, ...quick.requests].map(({ headers }) => headers["webhook-id"])).size).toBe(
    SLOW + QUICK,
  );
  expect(await system.queue.getJobCounts("wait", "active", "delayed", "failed")).toEqual({
    wait: 0,
    active: 0,
    delayed: 0,
    failed: 0,
  });
}, 30_000);

test("a backlog of many endpoints that are silent holds up nobody, not even one that is new", async () => {
  const system = await startStack({ concurrency: 64, isIdle: true });
  open.push(system); // ends last: what hangs ends with its receiver
  const [silent, quick] = [await startReceiver(), await startReceiver()];
  open.push(silent, quick);
  silent.answer("hang");
  const ENDPOINTS = 12;
  const QUICK = 100;
  const add = async (url: string) =>
    await system.queue.addBulk(Array.from({ length: QUICK }, () => ({ name: "file.created", data: jobData(url) })));
  for (let index = 0; index < ENDPOINTS; index++) await add(silent.url(`/in/${index}`));
  await add(quick.url("/in"));
  system.worker.run();
  // An attempt that is not answered takes ten seconds.
  await bounded(quick.waitFor(QUICK, 3_000), () => `the quick ones, got ${quick.requests.length}`, 3_000);
  expect(silent.requests.length).toBeLessThanOrEqual(64 / 2);
  await eventually(
    () => system.queue.getDelayedCount(),
    (delayed) => delayed > ENDPOINTS * QUICK - 64 * 2,
  );
});

test("a backlog that was parked at the pace of a slow endpoint goes as soon as it is fast", async () => {
  const receiver = await startReceiver();
  open.push(receiver);
  let delayMs = 400;
  receiver.answer(() => ({ delayMs }));
  const system = await startStack({ concurrency: 16, isIdle: true });
  open.push(system);
  const COUNT = 600;
  const job = () => ({ name: "file.created", data: jobData(receiver.url("/in")) });
  await system.queue.addBulk(Array.from({ length: COUNT }, job));
  system.worker.run();
  await eventually(
    () => system.queue.getDelayedCount(),
    (delayed) => delayed > COUNT / 2,
  );
  delayMs = 0;
  const startedAt = performance.now();
  await eventually(
    () => system.queue.getCompletedCount(),
    (completed) => completed === COUNT,
  );
  // At 400 ms each, 12 at a time, their turns reach 20 s ahead.
  expect(performance.now() - startedAt).toBeLessThan(10_000);
  expect(new Set(receiver.requests.map(({ headers }) => headers["webhook-id"])).size).toBe(COUNT);
  expect(receiver.requests.length).toBe(COUNT);
});
