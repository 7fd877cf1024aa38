/**
 * What the operating system and Valkey say about the work that was done.
 */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import type { Rig } from "./rig.ts";

const TICK_MICROS = 10_000; // the kernel counts CPU in hundredths of a second (USER_HZ), on every Linux there is

/** CPU used so far, user and system, all threads, also those that have ended; in µs, to the nearest 10 ms. Linux only. */
export function cpuMicros(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" "); // from the third on: the name may hold anything
  return (Number(fields[11]) + Number(fields[12])) * TICK_MICROS;
}

/** The most memory it ever had resident, in bytes. */
export const peakBytes = (pid: number): number => statusBytes(pid, "VmHWM");

/** The memory it has resident now, in bytes. */
export const residentBytes = (pid: number): number => statusBytes(pid, "VmRSS");

/** How many sockets it has open, its listeners among them. */
export function openSockets(pid: number): number {
  const directory = `/proc/${pid}/fd`;
  return readdirSync(directory).filter((name) => linkOf(`${directory}/${name}`).startsWith("socket:")).length;
}

/** What Valkey used so far. */
export interface ValkeyMeters {
  /** µs of CPU, user and system. */
  readonly cpuMicros: number;
  /** µs that its one thread spent in scripts. */
  readonly scriptMicros: number;
  /** Scripts run. */
  readonly scripts: number;
}

export async function readValkeyMeters({ client }: Pick<Rig, "client">): Promise<ValkeyMeters> {
  const [cpu, commands] = await Promise.all([client.info("cpu"), client.info("commandstats")]);
  const seconds = (key: string) => Number(new RegExp(`^${key}:(.+)$`, "m").exec(cpu)?.[1] ?? 0);
  const scripts = [...commands.matchAll(/^cmdstat_(?:eval|evalsha|fcall):calls=(\d+),usec=(\d+)/gm)];
  return {
    cpuMicros: (seconds("used_cpu_user") + seconds("used_cpu_sys")) * 1e6,
    scriptMicros: scripts.reduce((sum, [, , usec]) => sum + Number(usec), 0),
    scripts: scripts.reduce((sum, [, calls]) => sum + Number(calls), 0),
  };
}

function statusBytes(pid: number, field: string): number {
  const found = new RegExp(`^${field}:\\s+(\\d+) kB$`, "m").exec(readFileSync(`/proc/${pid}/status`, "utf8"));
  return Number(found?.[1]) * 1024;
}

/** A descriptor may be closed while we look. */
function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return "";
  }
}
