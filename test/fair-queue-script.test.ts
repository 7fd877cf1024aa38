/** What the fair queue's script does to a queue in a real Valkey. */
import { describe, expect, test } from "bun:test";
import { endpointKey } from "../src/delivery/request.ts";
import { startValkey } from "../src/dev/valkey.ts";
import { FIELDS, flowField, MAX_BYTES } from "../src/isolation/fair-queue-script.ts";
import { PRIORITY_SCORE } from "../src/queue/layout.ts";
import { type Ask, type Fields, inOrder, type Line, lookAt } from "./isolation/fair-model.ts";
import { type Chance, createChance } from "./support/chance.ts";
import { closeAfterEach, many, open, type Rig, setUp, users, waiting } from "./support/fair-rig.ts";
import { jobData } from "./support/stack.ts";

const SEED = Number(process.env.FAIR_SEED ?? Math.floor(Math.random() * 2 ** 31));

closeAfterEach();

test("the script does what the model says, in 500 random queues", async () => {
  const chance = createChance(SEED);
  const rig = await setUp();
  for (let round = 0; round < 500; round++) {
    const { line, fields } = await randomLine(rig, chance);
    let expected: Line = line;
    let behind = "";
    for (let looks = Math.ceil(chance.between(0, 4)); looks > 0; looks--) {
      const ask: Ask = {
        size: Math.ceil(chance.between(60, 1_200)),
        behind,
        giveBack: Math.floor(chance.between(0, 10)),
        troubled: users(20).filter(() => chance.between(0, 1) < 0.05),
      };
      const { wait, prioritized, tags, ...answer } = lookAt(expected, (id) => fields.get(id) as Fields, ask);
      expected = { wait, prioritized, tags };
      const [replied, found] = [await rig.look(ask), await rig.line()];
      expect({ SEED, round, replied, ...found }).toEqual({ SEED, round, replied: answer, ...expected });
      behind = chance.pick([answer.last, "", "taken meanwhile"]);
    }
  }
}, 120_000);

/** A queue with flows of all sizes, written by hand; and what its jobs are. */
async function randomLine(rig: Rig, chance: Chance): Promise<{ line: Line; fields: Map<string, Fields> }> {
  const { valkey, keys } = rig;
  const length = Math.floor(60 * 2 ** chance.between(0, 5));
  const skew = chance.between(0.2, 6); // of the flows' sizes
  const pick = (many: number) => Math.floor(many * chance.between(0, 1) ** skew);
  const isOneUser = chance.between(0, 1) < 0.1;
  const [userCount, urlCount] = [2 ** chance.between(0, 10), 2 ** chance.between(0, 10)].map(Math.ceil) as [
    number,
    number,
  ];
  const fields = new Map<string, Fields>();
  const writes = valkey.pipeline().del(keys.wait, keys.prioritized, keys.tags);
  const write = (id: string): void => {
    const user = chance.between(0, 1) < 0.02 ? undefined : `usr_${isOneUser ? 0 : pick(userCount)}`;
    const url = `https://h.example/${pick(urlCount)}`;
    fields.set(id, { user, url });
    writes.hset(`${keys.jobs}${id}`, "data", JSON.stringify({ userId: user, endpoint: { url } }));
  };
  const wait = Array.from({ length }, (_, i) => `w${i}`);
  for (const id of wait) write(id);
  writes.rpush(keys.wait, ...wait);
  const prioritized = new Map<string, number>();
  const tags = new Map<string, number>();
  if (chance.between(0, 1) < 0.6) {
    for (let i = 0; i < 20; i++) {
      const isOurs = chance.between(0, 1) < 0.8;
      prioritized.set(`p${i}`, (isOurs ? 0 : PRIORITY_SCORE * Math.ceil(chance.between(0, 3))) + pick(50));
    }
    for (const id of prioritized.keys()) write(id);
    writes.zadd(keys.prioritized, ...[...prioritized].flatMap(([id, score]) => [score, id]));
    for (let i = 0; i < 5; i++) tags.set(`${chance.pick(["u:usr_", "e:https://h.example/"])}${pick(10)}`, pick(60));
    if (chance.between(0, 1) < 0.1) tags.set("u:usr_0", PRIORITY_SCORE - 3); // about to run out
    writes.hset(keys.tags, Object.fromEntries(tags));
  }
  await writes.exec();
  return { line: { wait, prioritized, tags }, fields };
}

describe("a look", () => {
  test("changes nothing where nobody dominates", async () => {
    const rig = await setUp();
    const ids = await rig.add(Array.from({ length: 400 }, (_, i) => `usr_${i % 40}`));
    await rig.valkey.del(rig.keys.marker);
    expect(await rig.look()).toMatchObject({ seen: 400, moved: 0, left: 400, goesOn: false });
    expect(await waiting(rig)).toEqual(ids);
    expect(await rig.valkey.exists(rig.keys.prioritized, rig.keys.tags, rig.keys.marker)).toBe(0);
  });

  test("puts one user's jobs behind the others', in their order, but for a few", async () => {
    const rig = await setUp();
    const hogs = await rig.add(many("hog", 500));
    const others = await rig.add(users(20));
    expect(await rig.look()).toMatchObject({ seen: 520, moved: 497, left: 23, goesOn: false });
    expect(await waiting(rig)).toEqual([...hogs.slice(0, 3), ...others]);
    expect(inOrder((await rig.line()).prioritized)).toEqual(hogs.slice(3));
  });

  test("lets several of them take turns, however many jobs each has", async () => {
    const rig = await setUp();
    const big = await rig.add(many("big", 400));
    const small = await rig.add(many("small", 100));
    await rig.add(users(20));
    await rig.look();
    const order = inOrder((await rig.line()).prioritized).slice(0, 60);
    const share = order.filter((id) => small.includes(id)).length;
    expect(share).toBe(30);
    expect(order.filter((id) => big.includes(id))).toEqual(big.slice(3, 33)); // each in its order
  });

  test("takes a user who comes later into the round, and whose who have jobs there behind those", async () => {
    const rig = await setUp();
    await rig.add([...many("first", 300), ...users(20)]);
    await rig.look();
    for (let i = 0; i < 100; i++) await rig.valkey.zpopmin(rig.keys.prioritized); // workers take a hundred
    await rig.valkey.del(rig.keys.wait);
    const [second, first] = [await rig.add(many("second", 100)), await rig.add([...many("first", 2), ...users(20)])];
    await rig.look();
    const order = inOrder((await rig.line()).prioritized);
    expect(order.slice(0, 100).filter((id) => second.includes(id)).length).toBe(50);
    expect(order.at(-1)).toBe(first[1] as string); // the first of the two was kept
  });

  test("puts the jobs to one endpoint behind the others', although they are of many users", async () => {
    const rig = await setUp();
    const hot = await rig.add(users(500), () => "https://hot.example/in");
    const others = await rig.add(users(20, 1_000));
    expect(await rig.look()).toMatchObject({ seen: 520, moved: 497, left: 23, goesOn: false });
    expect(await waiting(rig)).toEqual([...hot.slice(0, 3), ...others]);
  });

  test("does not hold a user's jobs to the endpoint that another floods against that endpoint", async () => {
    const rig = await setUp();
    await rig.add(many("attacker", 500), () => "https://victim.example/in");
    const victims = await rig.add(many("victim", 3), () => "https://victim.example/in");
    const others = await rig.add(users(20));
    await rig.look();
    expect((await waiting(rig)).slice(3)).toEqual([...victims, ...others]);
  });

  test("leaves a queue of one endpoint alone, but moves one user's in case that others come", async () => {
    const [alone, single] = [await setUp(), await setUp()];
    await alone.add(users(200), () => "https://only.example/in");
    expect(await alone.look()).toMatchObject({ seen: 200, moved: 0, left: 200, goesOn: false });
    await single.add(many("only", 200));
    expect(await single.look()).toMatchObject({ seen: 200, moved: 199, left: 1, goesOn: false });
  });

  test("of a long queue takes the others' newest jobs to its head, past what it has not looked at", async () => {
    const rig = await setUp();
    const hogs = await rig.add(many("hog", 2_000));
    const others = await rig.add(users(10));
    expect(await rig.look({ size: 400 })).toEqual({
      seen: 400,
      moved: 298,
      left: 12,
      goesOn: true,
      last: others.at(-1) as string,
    });
    expect((await waiting(rig)).slice(0, 12)).toEqual([...hogs.slice(0, 2), ...others]);
    expect((await waiting(rig)).slice(12)).toEqual(hogs.slice(300)); // in their order
    expect(inOrder((await rig.line()).prioritized)).toEqual(hogs.slice(2, 300));
  });

  test("of a very long queue in which nobody dominates takes what came last to the places behind its oldest", async () => {
    const rig = await setUp();
    const ids = await rig.add(users(1_100));
    const others = await rig.add(users(8, 5_000));
    expect(await rig.look({ size: 80 })).toMatchObject({ seen: 80, moved: 0, left: 80, goesOn: false });
    const inLine = await waiting(rig);
    expect(inLine.slice(0, 80)).toEqual([...ids.slice(0, 60), ...ids.slice(-12), ...others]);
    expect(inLine.slice(80)).toEqual(ids.slice(60, -12));
  });

  test("lets a user in trouble yield as a whole", async () => {
    const rig = await setUp();
    const ids = await rig.add(Array.from({ length: 100 }, (_, i) => `usr_${i % 50}`));
    expect(await rig.look({ troubled: ["usr_7"] })).toMatchObject({ seen: 100, moved: 2, left: 98, goesOn: false });
    expect(inOrder((await rig.line()).prioritized)).toEqual([ids[7], ids[57]] as string[]);
  });

  test("gives some jobs back, the next ones first, and none that a producer gave a priority", async () => {
    const rig = await setUp();
    const hogs = await rig.add(many("hog", 100));
    const others = await rig.add(users(70));
    const urgent = await rig.add(["vip"], undefined, { priority: 1 });
    await rig.look({ giveBack: 4 });
    expect((await waiting(rig)).slice(0, 6)).toEqual([...hogs.slice(1, 5), hogs[0], others[0]] as string[]);
    expect((await waiting(rig)).slice(5)).toEqual(others);
    await rig.look({ giveBack: 1_000 });
    expect([...(await rig.line()).prioritized.keys()]).toEqual(urgent);
  });

  test("keeps what it moves ahead of producers' priorities", async () => {
    const rig = await setUp();
    const urgent = await rig.add(["vip"], undefined, { priority: 1 });
    await rig.add([...many("hog", 200), ...users(20)]);
    await rig.look();
    const all = await rig.valkey.zrange(rig.keys.prioritized, "0", "-1");
    expect(all).toHaveLength(200 - 1 + 1);
    expect(all.at(-1)).toBe(urgent[0] as string);
  });

  test("leaves LIFO jobs at the head", async () => {
    const rig = await setUp();
    await rig.add([...many("hog", 300), ...users(20)]);
    const lifo = await rig.add(["usr_9", "hog"], undefined, { lifo: true });
    await rig.look();
    expect((await waiting(rig)).slice(0, 2)).toEqual(lifo.toReversed());
  });

  test("wakes no worker of a paused queue, and wakes one otherwise", async () => {
    const rig = await setUp();
    await rig.add([...many("hog", 300), ...users(20)]);
    await rig.queue.pause();
    await rig.look();
    expect(await rig.valkey.exists(rig.keys.marker)).toBe(0);
    await rig.queue.resume();
    await rig.valkey.del(rig.keys.marker);
    await rig.add(many("other", 300));
    await rig.valkey.del(rig.keys.marker);
    await rig.look();
    expect(await rig.valkey.zscore(rig.keys.marker, "0")).toBe("0");
  });

  test("forgets its tags when nobody's jobs are left behind, and within an hour", async () => {
    const rig = await setUp();
    await rig.add([...many("hog", 300), ...users(20)]);
    await rig.look();
    expect((await rig.line()).tags).toEqual(new Map([["u:hog", 298]]));
    expect(await rig.valkey.ttl(rig.keys.tags)).toBeGreaterThan(3_500);
    await rig.valkey.del(rig.keys.prioritized, rig.keys.wait);
    await rig.add(users(100));
    await rig.look();
    expect(await rig.valkey.exists(rig.keys.tags)).toBe(0);
  });

  test("spells a flow's tag as the program does, which erases it by that, and gives one endpoint one flow", async () => {
    const rig = await setUp();
    const urls = [
      "https://hot.example/in?a=1",
      `https://hot.example/${"ü".repeat(400)}`, // cut within a character, at 512 bytes
      'https://hot.example/"quoted"\\',
    ];
    for (const url of urls) await rig.add(users(200), () => url);
    await rig.add([...many("hog", 300), ...users(20, 1_000)]);
    await rig.look();
    const fields = [...urls.map((url) => flowField("e", url)), flowField("u", "hog")];
    expect(await rig.valkey.hlen(rig.keys.tags)).toBe(fields.length);
    expect(await rig.valkey.hdel(rig.keys.tags, ...fields)).toBe(fields.length);
    expect(new Set(urls.map((url) => endpointKey(new URL(url)))).size).toBe(urls.length);
  });

  test("reads no more than its budget of bytes", async () => {
    const rig = await setUp();
    const data = JSON.stringify(
      jobData("https://large.example/in", { userId: "hog", data: { text: "x".repeat(MAX_BYTES / 32) } }),
    );
    for (let i = 0; i < 80; i++) await rig.addRaw(`large-${i}`, data);
    expect(await rig.look()).toMatchObject({ seen: 24, moved: 23, left: 1, goesOn: true });
    // 80 are no more than one piece: none of them is new
  });

  test.each(["many", "nan", "inf", "-inf", "1e300", "-5", ""])("loses nothing when a tag is %p", async (tag) => {
    const rig = await setUp();
    const first = await rig.add(["hog"]);
    const ids = await rig.add([...many("hog", 300), ...users(20)]);
    await rig.valkey.lrem(rig.keys.wait, 1, first[0] as string);
    await rig.valkey.zadd(rig.keys.prioritized, 7, first[0] as string);
    await rig.valkey.hset(rig.keys.tags, "u:hog", tag);
    expect(await rig.look()).toMatchObject({ moved: 298 });
    const { wait, prioritized } = await rig.line();
    expect([...wait, ...prioritized.keys()].toSorted()).toEqual([...first, ...ids].toSorted());
    for (const score of prioritized.values()) expect(score).toBeWithin(7, PRIORITY_SCORE);
  });

  test("loses nothing when Valkey has no memory left", async () => {
    const own = await startValkey();
    open.push(own);
    const rig = await setUp(own.url);
    const ids = await rig.add([...many("hog", 1_000), ...users(20)]);
    await rig.valkey.config("SET", "maxmemory", "1");
    const impatient = rig.valkey.multi().set("one", "more").exec(); // a transaction is not sent again
    expect(await impatient.catch((error: Error) => error.message)).toContain("EXECABORT");
    expect(await rig.look()).toMatchObject({ seen: 1_000, moved: 868 });
    const { wait, prioritized } = await rig.line();
    expect([...wait, ...prioritized.keys()].toSorted()).toEqual(ids.toSorted());
  });

  test("leaves alone what is no job", async () => {
    const rig = await setUp();
    await rig.add(many("hog", 100));
    await rig.valkey.lpush(rig.keys.wait, "gone", "list", "0:0");
    await rig.valkey.rpush(`${rig.keys.jobs}list`, "x");
    await rig.add(users(20));
    await rig.look();
    expect((await waiting(rig)).slice(1)).toEqual(expect.arrayContaining(["gone", "list", "0:0"]));
  });
});

test("a long backlog is gone through in pieces, each behind the one before", async () => {
  const rig = await setUp();
  const ids = await rig.add(Array.from({ length: 3_000 }, (_, i) => (i % 10 === 0 ? `usr_${i}` : "hog")));
  let seenInAll = 0;
  for (let behind = "", isOver = false; !isOver; ) {
    const { seen, goesOn, last } = await rig.look({ size: 500, behind });
    seenInAll += seen;
    behind = last;
    isOver = !goesOn;
  }
  const others = ids.filter((_, i) => i % 10 === 0);
  const inLine = await waiting(rig);
  expect(inLine.filter((id) => others.includes(id)).toSorted()).toEqual(others.toSorted());
  expect(inLine.length).toBeLessThan(300 + 40);
  expect(inOrder((await rig.line()).prioritized)).toEqual(ids.filter((id) => !inLine.includes(id)));
  expect(seenInAll).toBeLessThan(3_000 + 8 * 125); // the newest are looked at each time
});

describe("a job's user and endpoint are found", () => {
  /** What the script makes of a job's data. */
  async function fieldsOf(data: string): Promise<Fields> {
    const { valkey } = await setUp();
    const script = `${FIELDS} local user, url = fieldsOf(ARGV[1]) return { user or false, url or false }`;
    const [user, url] = (await valkey.eval(script, 0, data)) as (string | null)[];
    return { ...(user === null ? {} : { user }), ...(url === null ? {} : { url }) };
  }

  const [user, url] = ["usr_1", "https://customer.example/in?tenant=1"];
  const other = { userId: "victim", endpoint: { url: "https://other.example/" } };
  const own = { userId: user, endpoint: { url, secret: "s" } };
  test.each<[string, string, Fields]>([
    ["as JavaScript writes them", JSON.stringify({ ...own, data: other }), { user, url }],
    ["as PHP does, with escaped slashes", JSON.stringify(own).replaceAll("/", "\\/"), { user, url }],
    ["as Python does, with spaces", JSON.stringify(own).replaceAll('":', '": ').replaceAll(',"', ', "'), { user, url }],
    ["on lines of their own", JSON.stringify({ data: other, ...own }, null, 2), { user, url }],
    ["behind the event's own data, which has the same names", JSON.stringify({ data: other, ...own }), { user, url }],
    ["behind names in a list", JSON.stringify({ data: [other, "userId", ["x"]], ...own }), { user, url }],
    ["behind 100 kB of data", JSON.stringify({ data: "x".repeat(100_000), ...own }), { user, url }],
    [
      "behind brackets and quotes in a text",
      JSON.stringify({ data: { a: '}]{"userId":"x"\\' }, ...own }),
      { user, url },
    ],
    ["in another order", JSON.stringify({ endpoint: { secret: "s", url }, userId: user }), { user, url }],
    ["with quotes and other letters in them", JSON.stringify({ ...own, userId: 'a"\\ü' }), { user: 'a"\\ü', url }],
    ["although one is missing", JSON.stringify({ data: other, userId: user }), { user }],
    ["not where they are nested", JSON.stringify({ data: other, endpoint: { data: { url } } }), {}],
    ["not in a list", JSON.stringify([own]), {}],
    ["not in a text", JSON.stringify(JSON.stringify(own)), {}],
    ["not where they are no texts", JSON.stringify({ userId: { userId: "x" }, endpoint: { url: [url] } }), {}],
    ["not behind thousands of values", JSON.stringify({ data: Array(5_000).fill("x"), ...own }), {}],
    ["not in what is cut off before them", '{"data":{"userId":"x', {}],
    ["not in a text of nothing but escapes", `{"data":"${"\\n".repeat(50_000)}","userId":"x"}`, {}],
    ["not where there is nothing", "", {}],
  ])("%s", async (_, data, expected) => {
    expect(await fieldsOf(data)).toEqual(expected);
  });

  test("in any object as JSON.parse has them", async () => {
    const chance = createChance(SEED);
    const texts = ["userId", "endpoint", "url", "", "a:b", '"', "\\", '{"userId":"x"}', "}", "ü/"];
    const value = (depth: number): unknown => {
      const kind = depth > 4 ? 0 : Math.floor(chance.between(0, 6));
      if (kind < 3) return chance.pick<unknown>([...texts, 7, null, true]);
      if (kind === 3) return Array.from({ length: chance.between(0, 4) }, () => value(depth + 1));
      const keys = Array.from({ length: chance.between(0, 5) }, () => chance.pick(texts));
      return Object.fromEntries(keys.map((key) => [key, value(depth + 1)]));
    };
    const textOrNone = (found: unknown) => (typeof found === "string" ? found : undefined);
    for (let round = 0; round < 300; round++) {
      const data = { a: value(1), ...Object(value(0)) };
      const text = JSON.stringify(data, null, chance.pick([0, 1]));
      const isObject = typeof data.endpoint === "object" && !Array.isArray(data.endpoint);
      const expected = { user: textOrNone(data.userId), url: isObject ? textOrNone(data.endpoint?.url) : undefined };
      expect({ SEED, text, ...(await fieldsOf(text)) }).toEqual({ SEED, text, ...expected });
    }
  });
});
