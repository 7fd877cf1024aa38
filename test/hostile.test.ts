/** Receivers that mean no good, all at once, through the whole pipeline. What each of them does alone: answers.test.ts. */
import { afterEach, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import type { Socket } from "node:net";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import type { Address } from "../src/dns/address.ts";
import type { Attempt } from "../src/log/attempts.ts";
import { endAll, open, stack } from "./support/deliveries.ts";
import { type Exchange, http, type ListenerOptions, listen } from "./support/listener.ts";
import { eventually, jobData } from "./support/stack.ts";

const TIMEOUT_MS = 5000; // of an attempt: far more than what a busy machine adds to a delivery
const LATE_MS = 4000; // by how much a busy loop may make a deadline late
const ATTEMPTS = 2;
const MIB = 1024 * 1024;
const ENDLESS = 100_000; // pieces: nobody takes as many

afterEach(endAll);

const pem = (name: string) => readFileSync(join(import.meta.dir, "support", `${name}.pem`), "utf8");
const loopback: Address[] = [{ address: "127.0.0.1", family: 4 }];
const failing = (code: string) => Promise.reject(Object.assign(new Error("the resolver's words"), { code }));

/** Names that hosts of this file go by, and what a resolver makes of them. */
const NAMES: Record<string, () => Promise<Address[]>> = {
  "late.test": () => Bun.sleep(300).then(() => loopback),
  "never.test": () => new Promise(() => {}),
  "nxdomain.test": () => failing("ENOTFOUND"),
  "servfail.test": () => failing("ESERVFAIL"),
};
const resolve = (name: string) => NAMES[name]?.() ?? Promise.resolve(loopback);

/** Collect garbage, and say what is left, in bytes. */
function residentBytes(): number {
  Bun.gc(true);
  return process.memoryUsage.rss();
}

/** Write again and again, as fast as it is taken, or every so many ms. Small pieces would keep the loop, which all share. */
function pour({ socket }: { socket: Socket }, start: string, piece: string, everyMs = 0): void {
  let left = ENDLESS;
  const more = (): void => {
    while (left > 0 && !socket.destroyed) {
      left -= 1;
      if (!socket.write(piece) || everyMs > 0) return;
    }
  };
  socket.write(start);
  if (everyMs === 0) {
    socket.on("drain", more);
    more();
  } else {
    const timer = setInterval(more, everyMs);
    socket.on("close", () => clearInterval(timer));
  }
}

const chunked = http(200, "", ["Transfer-Encoding: chunked"]);
const chunk = (text: string) => `${text.length.toString(16)}\r\n${text}\r\n`;
const bomb = gzipSync(Buffer.alloc(15 * MIB)); // some 15 KB, within what is read of an answer
const bombHead = http(200, "", ["Content-Encoding: gzip", `Content-Length: ${bomb.length}`]);
const bombAnswer = Buffer.concat([Buffer.from(bombHead), bomb]);

interface Hostile {
  /** What it does to each request. */
  readonly answer?: string | ((exchange: Exchange, index: number) => void);
  readonly listen?: ListenerOptions;
  readonly scheme?: "https";
  /** In place of 127.0.0.1. */
  readonly host?: string;
  /** The code in the user's log, `null` for delivered. */
  readonly code: string | null;
  /** It uses the deadline up. */
  readonly isSlow?: true;
  /** Of the event, in bytes. */
  readonly bytes?: number;
}

const certified = (name: string): ListenerOptions => ({ tls: pem(name) });
const raw = (onConnection: (socket: Socket) => void): ListenerOptions => ({ onConnection });

const HOSTILE: Record<string, Hostile> = {
  "headers that drip": { answer: (e) => pour(e, "HTTP/1.1 200 OK\r\nX: ", "x", 20), code: null, isSlow: true },
  "a body that drips": { answer: (e) => pour(e, chunked, chunk("x"), 20), code: null, isSlow: true },
  "a body without end": { answer: (e) => pour(e, chunked, chunk("x".repeat(8192))), code: null },
  "2 MB of headers": { answer: http(200, "", [`X: ${"x".repeat(2_000_000)}`]), code: null },
  "headers without end": {
    answer: (e) => pour(e, "HTTP/1.1 200 OK\r\n", "X: y\r\n".repeat(2000)),
    code: null,
  },
  "another protocol": { answer: "SSH-2.0-OpenSSH_9.2\r\n", code: "invalid_response" },
  "a reset": { answer: ({ socket }) => void socket.resetAndDestroy(), code: "connection_reset" },
  "a reset at once": { listen: raw((socket) => void socket.resetAndDestroy()), code: "connection_reset" },
  "a close": { answer: ({ socket }) => void socket.end(), code: "connection_reset" },
  silence: { answer: () => {}, code: "timeout", isSlow: true },
  "a length and chunks": {
    answer: http(200, "0\r\n\r\n", ["Content-Length: 5", "Transfer-Encoding: chunked"]),
    code: null,
  },
  "a gzip bomb": { answer: ({ socket }) => void socket.write(bombAnswer), code: null },
  "status 199": { answer: http(199), code: "timeout", isSlow: true }, // 1xx: the answer is still to come
  "status 299": { answer: http(299), code: null },
  "status 600": { answer: http(600), code: "http_600" },
  "status 999": { answer: http(999), code: "http_999" },
  "status 099": { answer: "HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n", code: "http_99" },
  "status 2000": { answer: "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n", code: "invalid_response" },
  "status -200": { answer: "HTTP/1.1 -200 OK\r\nContent-Length: 0\r\n\r\n", code: "invalid_response" },
  "a status of letters": { answer: "HTTP/1.1 OK 200\r\nContent-Length: 0\r\n\r\n", code: "invalid_response" },
  "100 without end, slowly": { answer: (e) => pour(e, "", http(100, "", []), 20), code: "timeout", isSlow: true },
  "100 without end": { answer: (e) => pour(e, "", http(100, "", []).repeat(2000)), code: "invalid_response" },
  "a redirect to itself": { answer: http(307, "", ["Location: /", "Content-Length: 0"]), code: "http_307" },
  "an expired certificate": { listen: certified("expired"), scheme: "https", host: "receiver.test", code: "tls" },
  "a self-signed certificate": {
    listen: certified("self-signed"),
    scheme: "https",
    host: "receiver.test",
    code: "tls",
  },
  "another's certificate": { listen: certified("right"), scheme: "https", host: "other.test", code: "tls" },
  "a handshake that stalls": {
    listen: raw((socket) => void socket.resume()),
    scheme: "https",
    code: "timeout",
    isSlow: true,
  },
  "a handshake of nonsense": { listen: raw((socket) => void socket.end("nonsense")), scheme: "https", code: "tls" },
  "a slow name": { answer: http(200), host: "late.test", code: null },
  "a name that does not exist": { host: "nxdomain.test", code: "dns" },
  "an answer before the body is read": {
    listen: raw((socket) => {
      socket.once("data", () => socket.pause().write(http(413, "", ["Connection: close", "Content-Length: 0"])));
    }),
    code: "http_413",
    bytes: 8 * MIB,
  },
};

test("receivers that mean no good get what they deserve, all at once, and the healthy one notices nothing", async () => {
  const system = await stack({
    resolve,
    concurrency: 128,
    timeoutMs: TIMEOUT_MS,
    policy: { attempts: ATTEMPTS, delaysMs: [1], jitter: 0 },
    maxBodyBytes: 10 * MIB,
  });
  const receiver = async (answer: Hostile["answer"], options?: ListenerOptions) => {
    const script =
      typeof answer === "string" ? ({ socket }: Exchange) => void socket.write(answer) : (answer ?? (() => {}));
    const listener = await listen(script, options);
    open.push(listener);
    return listener;
  };

  // One that is well, one that nobody listens at, one that closes its idle connections as they are used again.
  const healthy = await receiver(http(200));
  const seen = new Set<number>();
  const fickle = await receiver(({ socket, connection }) => {
    if (seen.has(connection)) return void socket.resetAndDestroy();
    seen.add(connection);
    socket.write(http(200));
  });
  const cases: Record<string, Hostile & { url: string }> = {
    "a port that is closed": { code: "connection_refused", url: "http://127.0.0.1:1/" },
  };
  for (const [name, hostile] of Object.entries(HOSTILE)) {
    const { scheme = "http", host = "127.0.0.1" } = hostile;
    const { port } = await receiver(hostile.answer, hostile.listen);
    cases[name] = { ...hostile, url: `${scheme}://${host}:${port}/` };
  }
  const bytesBefore = residentBytes();
  const startedAt = performance.now();

  /** Enqueue for the healthy one until told otherwise, each with a user of its own. */
  let isOver = false;
  const well = (async () => {
    const delaysMs: number[] = [];
    while (!isOver) {
      const data = jobData(`http://127.0.0.1:${healthy.port}/`);
      const enqueuedAt = performance.now();
      const { state } = await system.settled(await system.queue.add("file.created", data));
      expect(state).toBe("completed");
      delaysMs.push(performance.now() - enqueuedAt);
      await Bun.sleep(2);
    }
    return delaysMs.sort((a, b) => a - b);
  })();
  const again = (async () => {
    const data = jobData(`http://127.0.0.1:${fickle.port}/`);
    for (let i = 0; i < 5; i++) await system.settled(await system.queue.add("file.created", data));
    return await system.attempts(data.userId);
  })();
  const unresolved = ["servfail.test", "never.test"].map((host) => jobData(`http://${host}/`));
  const ours = await Promise.all(unresolved.map((data) => system.queue.add("file.created", data)));

  const ends = Object.entries(cases).map(async ([name, { url, bytes = 10 }]): Promise<[string, string, Attempt[]]> => {
    const data = jobData(url, { data: { text: "x".repeat(bytes) } });
    const { state } = await system.settled(await system.queue.add("file.created", data));
    return [name, state, await system.attempts(data.userId)];
  });
  const logs = await Promise.all(ends);
  const tookMs = performance.now() - startedAt;
  isOver = true;
  const delaysMs = await well;
  const bytesAfter = residentBytes();

  for (const [name, state, attempts] of logs) {
    const { code, isSlow } = cases[name] as Hostile;
    const found = { name, state, codes: attempts.map(({ error }) => error) };
    const expected = code === null ? ["completed", [null]] : ["failed", Array(ATTEMPTS).fill(code)];
    expect(found).toEqual({ name, state: expected[0] as string, codes: expected[1] as string[] });
    for (const { duration_ms } of attempts) {
      expect([name, duration_ms < TIMEOUT_MS + LATE_MS]).toEqual([name, true]);
      expect([name, duration_ms >= TIMEOUT_MS - 1]).toEqual([name, isSlow ?? false]);
    }
  }
  expect((await again).map(({ error, attempt }) => [error, attempt])).toEqual(Array(5).fill([null, 1]));

  // A resolver that fails or is silent is our fault: it costs the event nothing, and the user hears nothing of it.
  for (const [index, job] of ours.entries()) {
    await eventually(
      () => job.getState(),
      (state) => state === "delayed", // it is tried again now and then
    );
    expect((await system.stored(job)).atm ?? "0").toBe("0");
    expect(await system.attempts(unresolved[index]?.userId as string)).toEqual([]);
    expect(system.lines).toContainEqual(
      expect.objectContaining({ job: job.id, error: "resolver", verdict: "defer", attempt: 1 }),
    );
  }

  const worstMs = delaysMs.at(-1) as number;
  const medianMs = delaysMs[delaysMs.length >> 1] as number;
  const grownMiB = (bytesAfter - bytesBefore) / MIB;
  if (process.env.HOSTILE_FIGURES) console.error({ tookMs, events: delaysMs.length, medianMs, worstMs, grownMiB });
  expect(tookMs).toBeLessThan(ATTEMPTS * (TIMEOUT_MS + LATE_MS));
  expect(delaysMs.length).toBeGreaterThan(50);
  expect(medianMs).toBeLessThan(100);
  expect(worstMs).toBeLessThan(TIMEOUT_MS); // it never waits for one of the others to run into its deadline
  expect(grownMiB).toBeLessThan(150);
  await eventually(
    () => system.sender.inFlight,
    (inFlight) => inFlight === 0,
  );
}, 60_000);
