/** Which processes count as dead, and whose locks are taken. */
import { afterEach, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { Queue } from "bullmq";
import { createHolders, isDead } from "../src/queue/holders.ts";
import { queueKey } from "../src/queue/layout.ts";
import { connectValkey, type Valkey } from "../src/valkey/connection.ts";
import { eventually } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const PROGRAM = join(import.meta.dir, "support/holder-program.ts");
const NAMESPACE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
const isLinux = process.platform === "linux";
const mayUnshare =
  Bun.which("unshare") !== null &&
  Bun.spawnSync([...NAMESPACE, "true"], { stdio: ["ignore", "ignore", "ignore"] }).success;

const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

/** A queue that nobody works on, and what its locks are. */
async function setUp() {
  const name = `holders-${crypto.randomUUID()}`;
  const url = await testValkeyUrl();
  const valkey = connectValkey(url, "test:holders", { info() {}, warn() {} });
  const queue = new Queue(name, { connection: valkey });
  ends.push(async () => {
    await queue.obliterate({ force: true });
    await queue.close();
    valkey.disconnect();
  });
  const lock = async (job: string, token: string) => {
    await valkey.lpush(queue.toKey("active"), job);
    await valkey.set(`${queue.toKey(job)}:lock`, token);
  };
  const locked = async () => {
    const jobs = await valkey.lrange(queue.toKey("active"), 0, -1);
    const tokens = await Promise.all(jobs.map((job) => valkey.get(`${queue.toKey(job)}:lock`)));
    return jobs.filter((_, i) => tokens[i] !== null).sort();
  };
  return { name, url, valkey, queue, lock, locked };
}

/** A process that holds jobs of the queue; what its tokens begin with. */
async function hold(url: string, queue: string, within: readonly string[] = []) {
  const child = Bun.spawn([...within, process.execPath, PROGRAM, "hold", url, queue], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  ends.push(() => child.kill("SIGKILL"));
  const { value } = await child.stdout.getReader().read();
  return { pid: child.pid, child, prefix: new TextDecoder().decode(value).trim() };
}

async function look(url: string, queue: string, within: readonly string[]): Promise<string> {
  const child = Bun.spawn([...within, process.execPath, PROGRAM, "look", url, queue], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  return (await new Response(child.stdout).text()).trim();
}

const looked = (valkey: Valkey, queue: string) => createHolders(valkey, queueKey(queue)).takeLocksOfDead();
const startOf = async (pid: number | string) =>
  (await Bun.file(`/proc/${pid}/stat`).text()).split(") ")[1]?.split(" ")[19];

describe.if(isLinux)("a process is dead for certain", () => {
  test("when its pid is free, or has been given to another", async () => {
    const child = Bun.spawn(["sleep", "60"]);
    const name = `${child.pid}.${await startOf(child.pid)}`;
    expect(isDead(name)).toBe(false);
    expect(isDead(`${child.pid}.1`)).toBe(true);
    child.kill("SIGKILL");
    await child.exited;
    expect(isDead(name)).toBe(true);
  });

  test("when only its parent has not heard of it", async () => {
    const parent = Bun.spawn(["sh", "-c", "sleep 60 & echo $!; exec sleep 60"], { stdout: "pipe" }); // that never asks
    ends.push(() => parent.kill("SIGKILL"));
    const { value } = await parent.stdout.getReader().read();
    const pid = Number(new TextDecoder().decode(value));
    const name = `${pid}.${await startOf(pid)}`;
    // Until then it is a shell, which might ask.
    await eventually(
      () => Bun.file(`/proc/${parent.pid}/comm`).text(),
      (program) => program.trim() === "sleep",
    );
    process.kill(pid, "SIGKILL");
    await eventually(
      async () => (await Bun.file(`/proc/${pid}/stat`).text()).includes(") Z "),
      (isZombie) => isZombie,
    );
    expect(isDead(name)).toBe(true);
  });

  test("and not when it is stopped, nor when its name is none", async () => {
    const child = Bun.spawn(["sleep", "60"]);
    ends.push(() => child.kill("SIGKILL"));
    const start = await startOf(child.pid);
    child.kill("SIGSTOP");
    expect(isDead(`${child.pid}.${start}`)).toBe(false);
    for (const name of [
      "",
      ".",
      `${child.pid}`,
      `${child.pid}.`,
      `.${start}`,
      `0.${start}`,
      `-1.${start}`,
      "1e9.1",
      "7.7.7",
    ])
      expect([name, isDead(name)]).toEqual([name, false]);
  });
});

describe.if(isLinux)("the locks", () => {
  test("of a dead process are taken, of thousands of active jobs its own alone; then it is forgotten", async () => {
    const { name, url, valkey, queue, lock, locked } = await setUp();
    const dead = await hold(url, name);
    const alive = await hold(url, name);
    for (let i = 0; i < 1_200; i++) await lock(`o${i}`, `${alive.prefix}x:${i}`);
    for (const i of [0, 700, 1_300]) await lock(`d${i}`, `${dead.prefix}x:${i}`);
    await lock("last release", `${crypto.randomUUID()}:5`);
    expect(await looked(valkey, name)).toBe(false);
    dead.child.kill("SIGKILL");
    await dead.child.exited;
    expect(await looked(valkey, name)).toBe(true);
    expect((await locked()).filter((job) => !job.startsWith("o"))).toEqual(["last release"]);
    expect((await locked()).length).toBe(1_201);
    expect((await valkey.smembers(queue.toKey("stalled"))).sort()).toEqual(["d0", "d1300", "d700"]);
    const key = (await valkey.keys(`${queue.toKey("holders")}:*`))[0] as string;
    expect(await valkey.hlen(key)).toBe(3);
    expect(await looked(valkey, name)).toBe(false);
    expect(await valkey.hlen(key)).toBe(2);
    await valkey.del(key);
  });

  test("of a dead process stay while one lives that it gave its jobs to", async () => {
    const { name, url, valkey, lock, locked } = await setUp();
    const dead = await hold(url, name);
    const helper = Bun.spawn(["sleep", "60"]);
    ends.push(() => helper.kill("SIGKILL"));
    const [place = "", holder = ""] = dead.prefix.split(":");
    await valkey.hset(`bull:${name}:holders:${place}`, holder, `${helper.pid}.${await startOf(helper.pid)}`);
    await lock("job", `${dead.prefix}x:0`);
    dead.child.kill("SIGKILL");
    await dead.child.exited;
    expect(await looked(valkey, name)).toBe(false);
    expect(await locked()).toEqual(["job"]);
    helper.kill("SIGKILL");
    await helper.exited;
    expect(await looked(valkey, name)).toBe(true);
    expect(await locked()).toEqual([]);
  });

  test.if(mayUnshare)("of a process in another PID namespace are nobody's but its own neighbors' to take", async () => {
    const { name, url, valkey, lock, locked } = await setUp();
    const inside = await hold(url, name, NAMESPACE);
    const here = await hold(url, name);
    expect(inside.prefix).not.toBe("");
    expect(inside.prefix.split(":")[0]).not.toBe(here.prefix.split(":")[0] as string);
    await lock("inside", `${inside.prefix}x:0`);
    await lock("here", `${here.prefix}x:0`);
    for (const { child } of [inside, here]) {
      child.kill("SIGKILL");
      await child.exited;
    }
    expect(await look(url, name, NAMESPACE)).toBe("false");
    expect(await locked()).toEqual(["here", "inside"]);
    expect(await looked(valkey, name)).toBe(true);
    expect(await locked()).toEqual(["inside"]);
  });

  test.if(mayUnshare)("are not judged by a /proc that shows the processes of elsewhere", async () => {
    const { name, url } = await setUp();
    const inside = await hold(url, name, NAMESPACE.slice(0, -1));
    expect(inside.prefix).toBe("");
  });
});
