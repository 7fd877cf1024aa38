/**
 * The receiver of the benches, a process of its own: cheap enough not to be what is measured.
 *
 * - `POST /fast/<run>/…`  answers at once and notes how long the event took: arrival minus `data.sentAt` (epoch ms), or
 *   minus the run's start if that was later
 * - `PUT /start/<run>`  the run starts now: a worker is not to blame for what waited before it ran
 * - `POST /slow/<run>/…`  answers after 2 s
 * - `POST /dead/<run>/…`  never answers
 * - `GET /latencies/<run>`  the noted times in ms, as a JSON array
 *
 * Prints its address as the first line.
 */
import { epochMs } from "./clock.ts";

const SLOW_MS = 2 * 1000; // 2 s
const starts = new Map<string, number>();
const latencies = new Map<string, number[]>();

const server = Bun.serve({
  port: 0,
  hostname: "127.0.0.1",
  idleTimeout: 255,
  async fetch(request) {
    const [, kind, run = ""] = new URL(request.url).pathname.split("/");
    if (kind === "latencies") return Response.json(latencies.get(run) ?? []);
    if (kind === "start") {
      starts.set(run, epochMs());
      return new Response("ok");
    }
    if (kind === "dead") return new Promise<Response>(() => {});
    if (kind === "slow") {
      await Bun.sleep(SLOW_MS);
      return new Response("ok");
    }
    const { data } = (await request.json()) as { data: { sentAt: number } };
    const noted = latencies.get(run) ?? [];
    latencies.set(run, noted);
    noted.push(epochMs() - Math.max(data.sentAt, starts.get(run) ?? 0));
    return new Response("ok");
  },
});
console.log(server.url.origin);
