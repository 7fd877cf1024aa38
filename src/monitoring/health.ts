/**
 * `/healthz`, `/readyz` and `/metrics`, the same in every process.
 */
import { Hono } from "hono";
import type { Registry } from "prom-client";

/** Returns why a process is not ready, one sentence per reason; empty when it is. Never rejects, never hangs. */
export type Readiness = () => Promise<string[]>;

/** Create `/healthz`, which always says 200, and `/readyz`: 200, or 503 with the reasons. Neither needs a password. */
export function createHealthRoutes(readiness: Readiness): Hono {
  const app = new Hono();
  app.get("/healthz", (c) => c.json({ status: "ok" }));
  app.get("/readyz", async (c) => {
    const problems = await readiness();
    return problems.length === 0 ? c.json({ status: "ready" }) : c.json({ status: "not ready", problems }, 503);
  });
  return app;
}

/** Create `/metrics`, in the Prometheus text format. */
export function createMetricsRoutes(registry: Registry): Hono {
  const app = new Hono();
  app.get("/metrics", async (c) => c.text(await registry.metrics(), 200, { "content-type": registry.contentType }));
  return app;
}
