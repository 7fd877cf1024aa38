/**
 * `/healthz`, `/readyz` and `/metrics`, the same on every process.
 */
import { Hono } from "hono";
import type { Registry } from "prom-client";

/** Why a process is not ready, a sentence each; empty when it is. Never rejects, never hangs. */
export type Readiness = () => Promise<string[]>;

/** `/healthz`: the process runs. `/readyz`: 200, or 503 with the reasons. No password on either. */
export function createHealthRoutes(readiness: Readiness): Hono {
  const app = new Hono();
  app.get("/healthz", (c) => c.json({ status: "ok" }));
  app.get("/readyz", async (c) => {
    const problems = await readiness();
    return problems.length === 0 ? c.json({ status: "ready" }) : c.json({ status: "not ready", problems }, 503);
  });
  return app;
}

/** `/metrics`, in Prometheus' text format. */
export function createMetricsRoutes(registry: Registry): Hono {
  const app = new Hono();
  app.get("/metrics", async (c) => c.text(await registry.metrics(), 200, { "content-type": registry.contentType }));
  return app;
}
