/** Every error in the table is had from a real Valkey, for a command and for a script, and means what the table says. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { rmSync } from "node:fs";
import { Redis, type RedisOptions } from "ioredis";
import { startValkey, type ThrowawayValkeyOptions } from "../src/dev/valkey.ts";
import { codeOf, REFUSALS, refusalOf } from "../src/valkey/refusals.ts";
import { eventually } from "./support/stack.ts";

setDefaultTimeout(30_000);

const ends: (() => unknown)[] = [];
afterAll(async () => {
  for (const end of ends.reverse()) await end();
});

async function start(options: ThrowawayValkeyOptions = {}) {
  const valkey = await startValkey({ appendonly: false, ...options });
  ends.push(() => valkey.stop());
  return valkey;
}

function connect(url: string, options: RedisOptions = {}): Redis {
  const client = new Redis(url, { maxRetriesPerRequest: 0, enableReadyCheck: false, ...options });
  client.on("error", () => {}); // the command that fails says so
  ends.push(() => client.disconnect());
  return client;
}

const valkey = await start();
const admin = connect(valkey.url);
const client = connect(valkey.url);

/** What a command or script that was to fail failed with. */
async function refused(reply: Promise<unknown>): Promise<Error> {
  return await reply.then(
    (value) => Promise.reject(new Error(`expected a refusal, got ${value}`)),
    (error: Error) => error,
  );
}

const met = new Set<string>(); // the codes that a server has answered with

/** The error's code, which is noted as met, and what the table says of it. */
function judge(error: Error): readonly [string, string] {
  met.add(codeOf(error));
  return [codeOf(error), refusalOf(error)];
}

const SCRIPT = 'redis.call("INCR", KEYS[1]) redis.call("SET", KEYS[1] .. ":b", 1) return 1';

/** How a server comes to refuse writes that pass; each returns what ends it. */
const STATES: Record<string, () => Promise<() => unknown>> = {
  async BUSY() {
    await admin.config("SET", "busy-reply-threshold", 1);
    const looping = refused(connect(valkey.url).eval("while true do end", 0));
    await eventually(
      () => admin.ping().catch((error: Error) => error.message),
      (reply) => reply.startsWith("BUSY"),
    );
    return async () => {
      await admin.call("SCRIPT", "KILL");
      await looping;
    };
  },
  async OOM() {
    await admin.config("SET", "maxmemory", 1);
    return () => admin.config("SET", "maxmemory", 0);
  },
  async NOREPLICAS() {
    await admin.config("SET", "min-replicas-to-write", 1);
    return () => admin.config("SET", "min-replicas-to-write", 0);
  },
  async READONLY() {
    await admin.replicaof("127.0.0.1", 1);
    return () => admin.replicaof("NO", "ONE");
  },
  async MASTERDOWN() {
    await admin.config("SET", "replica-serve-stale-data", "no");
    await admin.replicaof("127.0.0.1", 1);
    return async () => {
      await admin.replicaof("NO", "ONE");
      await admin.config("SET", "replica-serve-stale-data", "yes");
    };
  },
  async MISCONF() {
    rmSync(valkey.directory, { recursive: true }); // it cannot save there any more
    await admin.config("SET", "save", "3600 1");
    await admin.bgsave();
    await eventually(
      () => admin.info("persistence"),
      (info) => info.includes("rdb_last_bgsave_status:err"),
    );
    return () => admin.config("SET", "stop-writes-on-bgsave-error", "no");
  },
};

describe("a refusal that passes", () => {
  test.each(Object.keys(STATES))("%s: nothing was executed, and the same is executed later", async (code) => {
    const key = `count:${code}`;
    const increment = () => client.incr(key);
    const script = () => client.eval(SCRIPT, 1, key);
    const end = await (STATES[code] as () => Promise<() => unknown>)();
    try {
      expect(judge(await refused(script()))).toEqual([code, "later"]);
      expect(judge(await refused(increment()))[1]).toBe("later"); // a replica without its primary says READONLY to it
    } finally {
      await end();
    }
    expect(await client.mget(key, `${key}:b`)).toEqual([null, null]);
    expect([await increment(), await script()]).toEqual([1, 1]);
    expect(await client.get(key)).toBe("2");
  });

  test("LOADING: nothing was executed, and the same is executed later", async () => {
    const settings = { "key-load-delay": "2000", "loading-process-events-interval-bytes": "1024" };
    const loading = await start({ settings });
    const filling = connect(loading.url);
    await filling.mset(...Array.from({ length: 1_000 }, (_, index) => [`key:${index}`, "x".repeat(64)]).flat());
    await filling.save();
    filling.disconnect();
    await loading.kill();
    const restarted = loading.restart();
    const impatient = connect(loading.url, { retryStrategy: () => 20, maxRetriesPerRequest: null });
    expect(judge(await refused(impatient.incr("count")))).toEqual(["LOADING", "later"]);
    expect(judge(await refused(impatient.eval(SCRIPT, 1, "count")))).toEqual(["LOADING", "later"]);
    await restarted;
    expect(await impatient.incr("count")).toBe(1);
  });

  test("UNBLOCKED: a command that waited took nothing", async () => {
    const waiting = refused(client.blpop("list", 0));
    await eventually(
      () => admin.info("clients"),
      (info) => info.includes("blocked_clients:1"),
    );
    await admin.replicaof("127.0.0.1", 1);
    expect(judge(await waiting)).toEqual(["UNBLOCKED", "later"]);
    await admin.replicaof("NO", "ONE");
  });
});

describe("a refusal that does not pass by itself", () => {
  test("rights, passwords, scripts and transactions: nothing was executed", async () => {
    await admin.call("ACL", "SETUSER", "reader", "on", ">pass", "~*", "+@read", "+auth", "+hello");
    const reader = connect(valkey.url.replace("//", "//reader:pass@"));
    expect(judge(await refused(reader.incr("never")))).toEqual(["NOPERM", "never"]);
    expect(judge(await refused(client.call("AUTH", "reader", "wrong")))).toEqual(["WRONGPASS", "never"]);
    expect(judge(await refused(client.call("HELLO", "9")))).toEqual(["NOPROTO", "never"]);
    expect(judge(await refused(client.evalsha("0".repeat(40), 1, "never")))).toEqual(["NOSCRIPT", "never"]);
    const transaction = client.multi({ pipeline: false });
    await transaction;
    client.incr("never");
    await refused(client.call("INCR"));
    expect(judge(await refused(client.exec()))).toEqual(["EXECABORT", "never"]);
    await admin.config("SET", "requirepass", "secret");
    expect(judge(await refused(connect(valkey.url).incr("never")))).toEqual(["NOAUTH", "never"]);
    await admin.config("SET", "requirepass", "");
    expect(await client.get("never")).toBeNull();
  });

  test("a cluster's: nothing was executed, and only some pass", async () => {
    const settings = { "cluster-enabled": "yes" };
    const [one, two] = [await start({ settings }), await start({ settings })];
    const [first, second] = [connect(one.url), connect(two.url)];
    expect(judge(await refused(first.incr("never")))).toEqual(["CLUSTERDOWN", "later"]);
    await second.call("CLUSTER", "ADDSLOTSRANGE", "0", "0"); // of no key that is used here
    await first.call("CLUSTER", "ADDSLOTSRANGE", "1", "16383");
    await first.call("CLUSTER", "MEET", "127.0.0.1", String(two.port));
    const isJoined = (info: unknown) => String(info).includes("cluster_state:ok");
    for (const node of [first, second]) await eventually(() => node.call("CLUSTER", "INFO"), isJoined);
    expect(judge(await refused(first.mset("never", 1, "ever", 1)))).toEqual(["CROSSSLOT", "never"]);
    expect(judge(await refused(second.incr("never")))).toEqual(["MOVED", "never"]);
    const slot = String(await first.call("CLUSTER", "KEYSLOT", "never"));
    const id = String(await second.call("CLUSTER", "MYID"));
    await first.set("{never}:here", 1);
    await first.call("CLUSTER", "SETSLOT", slot, "MIGRATING", id);
    expect(judge(await refused(first.incr("never")))).toEqual(["ASK", "never"]);
    expect(judge(await refused(first.mset("{never}:here", 2, "never", 2)))).toEqual(["TRYAGAIN", "later"]);
    expect(await first.get("{never}:here")).toBe("1");
  });
});

test("a script that fails halfway may have been executed in part, and is not called refused", async () => {
  const halfway = 'redis.call("SET", KEYS[1], "x") redis.call("INCR", KEYS[1])';
  const error = await refused(client.eval(halfway, 1, "half"));
  expect(refusalOf(error)).toBe("perhaps");
  expect(await client.get("half")).toBe("x");
  expect(refusalOf(new Error("Connection is closed."))).toBe("perhaps");
});

test("the table has the errors that were met above, and no others", () => {
  expect(Object.keys(REFUSALS).sort()).toEqual([...met].sort());
});
