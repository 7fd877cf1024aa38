/**
 * The process in which suspects run, as their worker sees it: orders go in, reports come out, and it is killed when it hangs.
 */

import type { FaultCode } from "../delivery/outcome.ts";
import type { Metrics } from "../monitoring/metrics.ts";

const TICK_MS = 1000; // 1 s: how often each looks for the other

/** What a worker tells the process. */
export type Order =
  | { readonly kind: "take"; readonly job: string; readonly token: string }
  | { readonly kind: "cancel"; readonly job: string; readonly code: FaultCode }
  | { readonly kind: "cancelAll"; readonly code: FaultCode };

/** What came of an attempt: what a processor returns or throws, as JSON has it. */
export type Settlement =
  | { readonly kind: "done"; readonly phrase: string }
  | { readonly kind: "failed"; readonly message: string; readonly retryInMs?: number }
  | { readonly kind: "parked"; readonly retryAt: number }
  | { readonly kind: "left" }
  | { readonly kind: "unforeseen"; readonly message: string };

/** What is counted there and here alike. */
export type Counted = Exclude<keyof Metrics, "registry" | "totals">;

/** What the process tells its worker; `alive` every {@link TICK_MS}. */
export type Report =
  | { readonly kind: "alive" }
  | { readonly kind: "ready" }
  | { readonly kind: "counted"; readonly name: Counted; readonly args: readonly unknown[] }
  | { readonly kind: "settled"; readonly job: string; readonly settlement: Settlement };

/** What its worker wants to know. */
export interface ChildEvents {
  /** It can take jobs. */
  ready(): void;
  counted(name: Counted, args: readonly unknown[]): void;
  settled(job: string, settlement: Settlement): void;
  /** It is gone. `cause` as in "SIGKILL", undefined when {@link Child.kill} ended it. */
  ended(cause: string | undefined): void;
}

export interface Child {
  readonly pid: number;
  send(order: Order): void;
  /** End it at once. */
  kill(): void;
}

export interface ChildOptions {
  /** The file to run. */
  readonly program: string;
  /** Its arguments, behind this process's pid. */
  readonly args: readonly string[];
  /** How long it may give no sign of life, in time during which this process ran, ms. */
  readonly hungMs: number;
}

/** Start the process. It writes its lines where this one does, and ends with this one. */
export function startChild({ program, args, hungMs }: ChildOptions, events: ChildEvents): Child {
  let silentMs = 0;
  let isHung = false;
  let isKilled = false;
  const child = Bun.spawn([process.execPath, ...process.execArgv, program, String(process.pid), ...args], {
    stdio: ["ignore", "inherit", "inherit"],
    serialization: "json",
    ipc(report: Report) {
      silentMs = 0;
      if (isKilled || report.kind === "alive") return;
      if (report.kind === "ready") events.ready();
      if (report.kind === "counted") events.counted(report.name, report.args);
      if (report.kind === "settled") events.settled(report.job, report.settlement);
    },
    onExit(_, code, signal) {
      clearInterval(timer);
      const how = typeof signal === "string" ? signal : signal !== null ? `signal ${signal}` : `exit code ${code}`;
      events.ended(isHung ? `hanging for ${hungMs / 1000} s` : isKilled ? undefined : how);
    },
  });
  // Ticks, not a clock: a machine that slept has given it no time to speak.
  const timer = setInterval(() => {
    silentMs += TICK_MS;
    if (silentMs <= hungMs) return;
    isHung = true;
    child.kill("SIGKILL");
  }, TICK_MS);
  return {
    pid: child.pid,
    send(order) {
      try {
        child.send(order);
      } catch {} // it is about to be found dead
    },
    kill() {
      isKilled = true;
      child.kill("SIGKILL");
    },
  };
}

/** Tell the worker that this process lives, and end it when the worker is gone. For the process itself. */
export function reportLife(report: (report: Report) => void): void {
  report({ kind: "alive" });
  setInterval(() => report({ kind: "alive" }), TICK_MS);
  process.on("disconnect", () => process.exit(1));
  // Signals go to a whole terminal, or control group: what they mean for its jobs, the worker says.
  for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"]) process.on(signal, () => {});
}
