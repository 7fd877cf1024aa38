/**
 * `/healthz`, `/readyz` and `/metrics`, the same in every process.
 */
import { Hono } from "hono";
import type { Registry } from "prom-client";

/** Returns why a process is not ready, one sentence per reason; empty when it is. Never rejects, never hangs. */
export type Readiness = () => Promise<string[] | Health>;

/** What is wrong with a process that may be of use all the same. */
export interface Health {
  readonly problems: readonly string[];
  readonly isReady: boolean;
}

/** Create `/healthz`, which always says 200, and `/readyz`: 200, or 503 with the reasons; 200 with them if it is ready all the same. Neither needs a password. */
export function createHealthRoutes(readiness: Readiness): Hono {
  const app = new Hono();
  app.get("/healthz", (c) => c.json({ status: "ok" }));
  app.get("/readyz", async (c) => {
    const found = await readiness();
    const { problems, isReady } = Array.isArray(found) ? { problems: found, isReady: found.length === 0 } : found;
    if (!isReady) return c.json({ status: "not ready", problems }, 503);
    return c.json({ status: "ready", ...(problems.length > 0 && { problems }) });
  });
  return app;
}

/** Create `/metrics`, in the Prometheus text format. */
export function createMetricsRoutes(registry: Registry): Hono {
  const app = new Hono();
  app.get("/metrics", async (c) => c.text(await registry.metrics(), 200, { "content-type": registry.contentType }));
  return app;
}
