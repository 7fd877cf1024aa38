/**
 * Who holds a job's lock: a process that others of its place can find to be dead, so that its jobs run again at once and not
 * when their locks end.
 */
import { createHash } from "node:crypto";
import { readFileSync, readlinkSync } from "node:fs";
import { hostname } from "node:os";
import type { RedisQueueBackend } from "bullmq";
import type { Valkey } from "../valkey/connection.ts";
import { LOCK_SUFFIX, queueKeys } from "./layout.ts";

const PAGE = 500; // active jobs that one script looks at: about half a millisecond of Valkey
const KEPT_MS = 24 * 60 * 60 * 1000; // 1 day: what is known of a place where no worker runs any more

/** A process, as `<pid>.<start>`: a pid alone is given away again. */
type Name = string;

/**
 * Where a process runs: two processes of one place see the same processes by the same pids. Host name, boot id and the
 * namespaces of pids and of clocks, from which a process's start is told.
 */
interface Identity {
  readonly place: string;
  readonly name: Name;
}

/** This process, or undefined where that cannot be known, as without Linux's /proc. */
function identify(): Identity | undefined {
  try {
    if (readlinkSync("/proc/self") !== String(process.pid)) return undefined; // another namespace's /proc
    const start = readStat(process.pid)?.start;
    if (start === undefined) return undefined;
    const parts = [hostname(), readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim()];
    const spaces = [readlinkSync("/proc/self/ns/pid"), readClocks()];
    const place = createHash("sha256")
      .update(JSON.stringify([...parts, ...spaces]))
      .digest("base64url")
      .slice(0, 22);
    return { place, name: `${process.pid}.${start}` };
  } catch {
    return undefined;
  }
}

function readClocks(): string {
  try {
    return readlinkSync("/proc/self/ns/time");
  } catch {
    return ""; // Linux before 5.6 has one for all
  }
}

/** What proc(5) says of a process, `start` in clock ticks since boot; undefined when it says nothing. */
function readStat(
  pid: number,
): { readonly state: string; readonly threads: number; readonly start: string } | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "utf8");
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" "); // a program's name may hold anything
    return { state: fields[0] as string, threads: Number(fields[17]), start: fields[19] as string };
  } catch {
    return undefined;
  }
}

/**
 * Whether a process is dead for certain. Not where /proc hides it, nor when it is stopped, nor while one of its threads still
 * runs. A zombie is dead: only its parent has not heard of it.
 */
export function isDead(name: Name): boolean {
  const [pid, start, ...rest] = name.split(".");
  if (!/^[1-9]\d{0,9}$/.test(pid ?? "") || !/^\d+$/.test(start ?? "") || rest.length > 0) return false;
  try {
    process.kill(Number(pid), 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ESRCH") return true; // EPERM: it is somebody else's
  }
  const found = readStat(Number(pid));
  return found !== undefined && (found.start !== start || (found.state === "Z" && found.threads <= 1));
}

/**
 * KEYS: active, stalled. ARGV: what job keys begin with, first and last index, then what the tokens of the dead begin with.
 * Takes their locks, by exactly these tokens, and marks their jobs as BullMQ marks a job before it finds it stalled. Returns how many jobs it saw, and
 * of how many it took the lock.
 */
const TAKE_LOCKS = `
local ids, taken = redis.call("LRANGE", KEYS[1], ARGV[2], ARGV[3]), 0
for _, id in ipairs(ids) do
  local lock = ARGV[1] .. id .. "${LOCK_SUFFIX}"
  local token = redis.call("GET", lock)
  for i = 4, token and #ARGV or 0 do
    if string.sub(token, 1, #ARGV[i]) == ARGV[i] then
      redis.call("DEL", lock)
      redis.call("SADD", KEYS[2], id)
      taken = taken + 1
      break
    end
  end
end
return { #ids, taken }`;

/** The processes that hold jobs of a queue, at this process's place. */
export interface Holders {
  /** What the tokens of this process's locks begin with; empty where processes cannot be known. */
  readonly prefix: string;
  /** A process works on jobs of this one's: as long as it lives, they stay where they are. Resolves when all may know. */
  adopt(pid: number): Promise<void>;
  /** It is gone. */
  release(pid: number): void;
  /**
   * Take the locks of processes that are dead.
   *
   * Costs a look at the few processes of this place; at the active jobs, a page at a time, only when one of them is dead.
   *
   * @returns whether there were any, whose jobs wait for BullMQ's check for stalled ones
   * @throws  when Valkey answers with an error; waits while it is away
   */
  takeLocksOfDead(): Promise<boolean>;
}

/**
 * Key: `bull:<queue>:holders:<place>`, a hash: the processes that hold jobs, and to each those that it adopted, parted by
 * blanks. Expires after a day.
 *
 * @param prefix  of the queue's keys
 */
export function createHolders(valkey: Valkey, prefix: string): Holders {
  const identity = identify();
  if (identity === undefined) {
    return { prefix: "", adopt: async () => {}, release() {}, takeLocksOfDead: async () => false };
  }
  const { place, name } = identity;
  const { active, stalled, jobs } = queueKeys(prefix);
  const key = `${jobs}holders:${place}`;
  const tokenPrefix = (holder: Name) => `${place}:${holder}:`;
  const adopted = new Map<number, Name>();

  /** That this process is one of them; awaited before anything is done in its name. */
  async function register(): Promise<void> {
    await valkey.hset(key, name, [...adopted.values()].join(" "));
    await valkey.pexpire(key, KEPT_MS);
  }

  return {
    prefix: tokenPrefix(name),
    async adopt(pid) {
      const start = readStat(pid)?.start;
      if (start === undefined) return; // it is gone, and will do nothing
      adopted.set(pid, `${pid}.${start}`);
      await register();
    },
    release(pid) {
      if (adopted.delete(pid)) register().catch(() => {}); // the next look says it again
    },
    async takeLocksOfDead() {
      await register();
      const known = Object.entries(await valkey.hgetall(key));
      const dead = known.filter(([holder, others]) => [holder, ...others.split(" ").filter(Boolean)].every(isDead));
      if (dead.length === 0) return false;
      const prefixes = dead.map(([holder]) => tokenPrefix(holder));
      let taken = 0;
      for (let start = 0, seen = PAGE; seen === PAGE; start += PAGE) {
        const page = valkey.eval(TAKE_LOCKS, 2, active, stalled, jobs, start, start + PAGE - 1, ...prefixes);
        const [count, of] = (await page) as [number, number];
        seen = count;
        taken += of;
      }
      // Not before a look finds nothing of theirs: their last commands may reach Valkey after they died.
      if (taken === 0) await valkey.hdel(key, ...dead.map(([holder]) => holder));
      return taken > 0;
    },
  };
}

/**
 * BullMQ's connection to a queue, that with each check for stalled jobs gives back what dead processes held. BullMQ counts
 * these as stalled.
 */
export function givesBack(
  backend: RedisQueueBackend,
  holders: Holders,
  valkey: Valkey,
  prefix: string,
): RedisQueueBackend {
  const check = backend.moveStalledJobsToWait.bind(backend);
  backend.moveStalledJobsToWait = async () => {
    const areTaken = await holders.takeLocksOfDead().catch(() => false); // their locks end by themselves
    if (areTaken) await valkey.del(queueKeys(prefix)["stalled-check"]); // BullMQ makes one in 5 s for all workers: now
    return await check();
  };
  return backend;
}
