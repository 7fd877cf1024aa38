/**
 * The receiver of the isolation bench, a process of its own: cheap enough not to be what is measured.
 *
 * - `POST /<ms>/<run>/<stream>/…`  answers after so many ms, and notes how long the event took: arrival minus `data.sentAt`
 *   (epoch ms), or minus the run's start if that was later
 * - `POST /silent/…`  never answers
 * - `PUT /start/<run>`  the run starts now: a worker is not to blame for what waited before
 * - `GET /count/<run>/<stream>`  how many events it noted
 * - `GET /times/<run>/<stream>`  the noted times in ms, a JSON array
 *
 * Listens on all loopback addresses, so that each can be a host of its own. Prints its port as the first line.
 */
import { epochMs } from "./clock.ts";

const starts = new Map<string, number>();
const noted = new Map<string, number[]>(); // by run and stream

const server = Bun.serve({
  port: 0,
  hostname: "0.0.0.0",
  idleTimeout: 255,
  async fetch(request) {
    const [, what = "", run = "", stream = ""] = new URL(request.url).pathname.split("/");
    const name = `${run}/${stream}`;
    const times = noted.get(name) ?? [];
    if (what === "count") return Response.json(times.length);
    if (what === "times") return Response.json(times);
    if (what === "start") {
      starts.set(run, epochMs());
      return new Response("ok");
    }
    if (what === "silent") return new Promise<Response>(() => {});
    const { data } = (await request.json()) as { data: { sentAt: number } };
    noted.set(name, times);
    times.push(epochMs() - Math.max(data.sentAt, starts.get(run) ?? 0));
    if (Number(what) > 0) await Bun.sleep(Number(what));
    return new Response("ok");
  },
});
console.log(server.port);
