/**
 * Recovers jobs of dead processes. Lock tokens name the process that holds them, so that others on the same host can tell when
 * it is dead, and run its jobs again immediately instead of when the locks expire.
 */
import { createHash } from "node:crypto";
import { readFileSync, readlinkSync } from "node:fs";
import { hostname } from "node:os";
import type { RedisQueueBackend } from "bullmq";
import type { Valkey } from "../valkey/connection.ts";
import { LOCK_SUFFIX, queueKeys } from "./layout.ts";

const PAGE = 500; // active jobs per script: about 0.5 ms of Valkey
const PLACE_LENGTH = 12; // characters, 72 bits. With more, tokens exceed the 44 bytes that Valkey embeds: 5 µs a delivery
const KEPT_MS = 24 * 60 * 60 * 1000; // 1 day: expiry of the key of a host where no worker runs any longer

/** A process, as `<pid>.<start>`, since pids are reused. */
type Name = string;

/**
 * A process and where it runs. Processes in one place see the same processes under the same pids: it is a hash of the host
 * name, the boot id, and the namespaces of pids and clocks (start times depend on the latter).
 */
interface Identity {
  readonly place: string;
  readonly name: Name;
}

/** This process; undefined where that cannot be determined, as without Linux's /proc. */
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
      .slice(0, PLACE_LENGTH);
    return { place, name: `${process.pid}.${start}` };
  } catch {
    return undefined;
  }
}

function readClocks(): string {
  try {
    return readlinkSync("/proc/self/ns/time");
  } catch {
    return ""; // Linux before 5.6 has no clock namespaces
  }
}

/** A process's entry in proc(5), `start` in clock ticks since boot; undefined when there is none. */
function readStat(
  pid: number,
): { readonly state: string; readonly threads: number; readonly start: string } | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "utf8");
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" "); // a program's name may contain anything
    return { state: fields[0] as string, threads: Number(fields[17]), start: fields[19] as string };
  } catch {
    return undefined;
  }
}

/**
 * Whether a process is certainly dead. False if /proc hides it, if it is stopped, or while one of its threads still runs. A
 * zombie without running threads is dead.
 */
export function isDead(name: Name): boolean {
  const [pid, start, ...rest] = name.split(".");
  if (!/^[1-9]\d{0,9}$/.test(pid ?? "") || !/^\d+$/.test(start ?? "") || rest.length > 0) return false;
  try {
    process.kill(Number(pid), 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ESRCH") return true; // EPERM: it exists but is another user's
  }
  const found = readStat(Number(pid));
  return found !== undefined && (found.start !== start || (found.state === "Z" && found.threads <= 1));
}

/**
 * Deletes the locks of dead processes, and marks their jobs for BullMQ's check for stalled jobs. KEYS: active, stalled. ARGV:
 * the prefix of job keys, first and last index, then the token prefixes of the dead. Returns how many jobs it looked at, and
 * how many locks it deleted.
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

/** The processes on this host that hold a queue's jobs. */
export interface Holders {
  /** Prefix of this process's lock tokens; empty where processes cannot be identified. */
  readonly prefix: string;
  /** Register a process that works on this one's jobs: while it lives, they are not taken. Resolves once that is stored. */
  adopt(pid: number): Promise<void>;
  /** Undo {@link adopt}: the process is gone. */
  release(pid: number): void;
  /**
   * Delete the locks of dead processes.
   *
   * Checks the few processes of this host; pages through the active jobs only if one of them is dead.
   *
   * @returns whether there were any; their jobs then wait for BullMQ's check for stalled jobs
   * @throws  when Valkey answers with an error; waits while it is away
   */
  takeLocksOfDead(): Promise<boolean>;
}

/**
 * Key: `bull:<queue>:holders:<place>`, a hash from processes that hold jobs to those that each adopted, separated by spaces.
 * Expires after a day.
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

  /** Store this process and those it adopted. Awaited before anything relies on it. */
  async function register(): Promise<void> {
    await valkey.hset(key, name, [...adopted.values()].join(" "));
    await valkey.pexpire(key, KEPT_MS);
  }

  return {
    prefix: tokenPrefix(name),
    async adopt(pid) {
      const start = readStat(pid)?.start;
      if (start === undefined) return; // it is already gone
      adopted.set(pid, `${pid}.${start}`);
      await register();
    },
    release(pid) {
      if (adopted.delete(pid)) register().catch(() => {}); // the next check repeats it
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
      // Only once nothing of theirs is found: their last commands may reach Valkey after they died.
      if (taken === 0) await valkey.hdel(key, ...dead.map(([holder]) => holder));
      return taken > 0;
    },
  };
}

/**
 * Make a backend recover the jobs of dead processes at each check for stalled jobs. BullMQ counts them as stalled.
 */
export function givesBack(
  backend: RedisQueueBackend,
  holders: Holders,
  valkey: Valkey,
  prefix: string,
): RedisQueueBackend {
  const check = backend.moveStalledJobsToWait.bind(backend);
  backend.moveStalledJobsToWait = async () => {
    const areTaken = await holders.takeLocksOfDead().catch(() => false); // their locks expire by themselves
    if (areTaken) await valkey.del(queueKeys(prefix)["stalled-check"]); // allow the check now: BullMQ runs one per 5 s for all workers
    return await check();
  };
  return backend;
}
