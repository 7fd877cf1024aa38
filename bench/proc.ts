/**
 * What the operating system says about a process: Linux's /proc.
 */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";

const TICK_MICROS = 10_000; // the kernel counts CPU in hundredths of a second (USER_HZ), on every Linux there is

/** CPU used so far, user and system, all threads, also those that have ended; in µs, to the nearest 10 ms. */
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
