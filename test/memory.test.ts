/** What a worker remembers of endpoints. */
import { afterAll, describe, expect, test } from "bun:test";
import { createConfirm } from "../src/endpoints/confirm.ts";
import { Memory, NEWS, type UsersEndpoints } from "../src/endpoints/memory.ts";
import { EVERYONE } from "../src/registry/changes.ts";
import { connectValkey } from "../src/valkey/connection.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const valkey = connectValkey(await testValkeyUrl(), "test:memory", { info() {}, warn() {} });
afterAll(() => valkey.disconnect());

const found = (version: string): UsersEndpoints => ({ version, endpoints: new Map(), length: 1_000 });

/** A memory of two users, as of the change `c1`. */
function remembering(): Memory {
  const memory = new Memory();
  expect(memory.catchUp("", NEWS.lost, ["c1 ann"])).toBe(true);
  memory.keep("ann", found("1"));
  memory.keep("bob", found("1"));
  return memory;
}

const known = (memory: Memory) => ["ann", "bob"].filter((user) => memory.recall(user) !== undefined);

describe("a worker's memory of endpoints", () => {
  test("keeps all while nothing has changed", () => {
    const memory = remembering();
    expect(memory.catchUp("c1 ann", NEWS.none, [])).toBe(true);
    expect(known(memory)).toEqual(["ann", "bob"]);
  });

  test("forgets whom a change concerns, and no other", () => {
    const memory = remembering();
    expect(memory.catchUp("c1 ann", NEWS.some, ["c3 bob", "c2 cid"])).toBe(true);
    expect([known(memory), memory.newest]).toEqual([["ann"], "c3 bob"]);
  });

  test("forgets all when its newest change is not found any more, or concerns everyone", () => {
    const lost = remembering();
    expect(lost.catchUp("c1 ann", NEWS.lost, ["c9 cid"])).toBe(true);
    expect([known(lost), lost.newest]).toEqual([[], "c9 cid"]);
    const erased = remembering();
    expect(erased.catchUp("c1 ann", NEWS.some, [`c2 ${EVERYONE}`])).toBe(true);
    expect(known(erased)).toEqual([]);
  });

  test("forgets all, and keeps nothing, while the changes cannot be read", () => {
    const memory = remembering();
    expect(memory.catchUp("c1 ann", NEWS.unreadable, [])).toBe(false);
    expect([known(memory), memory.newest, memory.isEmpty]).toEqual([[], "", true]);
  });

  test("keeps nothing while there are no changes: a list that is empty may have been deleted, and may be again", () => {
    const memory = new Memory();
    expect(memory.catchUp("", NEWS.none, [])).toBe(false);
    const lost = remembering();
    expect(lost.catchUp("c1 ann", NEWS.lost, [""])).toBe(false);
    expect([known(lost), lost.newest]).toEqual([[], ""]);
  });

  test("does not keep what was read before a change that it knows by now", () => {
    const memory = remembering();
    expect(memory.catchUp("c1 ann", NEWS.some, ["c3 bob", "c2 ann"])).toBe(true); // this answer overtook the next two
    expect(memory.catchUp("c1 ann", NEWS.none, [])).toBe(false);
    expect(memory.catchUp("c1 ann", NEWS.some, ["c2 ann"])).toBe(false);
    expect(memory.newest).toBe("c3 bob");
    expect(memory.catchUp("c1 ann", NEWS.lost, ["c3 bob"])).toBe(true);
    expect(memory.catchUp("c1 ann", NEWS.some, ["c4 cid", "c3 bob", "c2 ann"])).toBe(true);
    expect(memory.newest).toBe("c4 cid");
  });

  test("has at most 10,000 users, those that were used last", () => {
    const memory = remembering();
    for (let n = 0; n < 9_998; n++) memory.keep(`user ${n}`, found("1"));
    memory.recall("ann");
    memory.keep("one more", found("1"));
    expect(known(memory)).toEqual(["ann"]);
  });

  test("has at most 16 million characters of what is stored, however few users those are", () => {
    const memory = remembering();
    const large = { ...found("1"), length: 800_000 };
    for (let n = 0; n < 1_000; n++) {
      memory.keep(`user ${n}`, large);
      memory.recall("ann");
    }
    expect(known(memory)).toEqual(["ann"]);
    const kept = Array.from({ length: 1_000 }, (_, n) => n).filter((n) => memory.recall(`user ${n}`) !== undefined);
    expect(kept).toContain(999);
    expect(kept.length).toBeGreaterThanOrEqual(8);
    expect(kept.length * 800_000).toBeLessThanOrEqual(16 * 1024 * 1024);
  });
});

describe("a job is confirmed", () => {
  /** A memory of two users that is confirmed, and how often something was looked up. */
  async function confirming() {
    const memory = remembering();
    const key = `test:changes:${crypto.randomUUID()}`;
    await valkey.lpush(key, "c1 ann");
    const counts = { caughtUp: 0 };
    const confirm = createConfirm(valkey, key, memory, {
      isToBeChecked: () => !memory.isEmpty,
      async catchUp() {
        counts.caughtUp += 1;
        memory.catchUp("c1 ann", NEWS.some, ["c2 bob"]);
      },
    });
    return { memory, key, counts, confirm, change: () => valkey.lpush(key, "c2 bob") };
  }

  test("by one question, when nothing has changed", async () => {
    const { memory, counts, confirm } = await confirming();
    const jobs = [confirm(), confirm(), confirm(), confirm(), confirm()];
    await Promise.all(jobs.map((confirmed) => confirmed()));
    expect([known(memory), counts.caughtUp]).toEqual([["ann", "bob"], 0]);
  });

  test("when what has changed is forgotten", async () => {
    const { memory, counts, confirm, change } = await confirming();
    await change();
    await confirm()();
    expect([known(memory), counts.caughtUp]).toEqual([["ann"], 1]);
  });

  test("by a new question, when the command that took it was sent anew, behind the first", async () => {
    const { memory, confirm, change } = await confirming();
    const confirmed = confirm();
    await Bun.sleep(50); // the question is answered, and the job is not there yet
    await change();
    await confirmed();
    expect(known(memory)).toEqual(["ann"]);
  });

  test("at once when nothing is remembered, and with nothing remembered when it cannot be asked", async () => {
    const { memory, key, confirm } = await confirming();
    await valkey.set(key, "no list");
    await confirm()();
    expect(memory.isEmpty).toBe(true);
    expect(confirm()()).toBeUndefined();
    await valkey.del(key);
  });
});
