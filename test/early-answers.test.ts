/** Answers that come before the request has been sent whole. */
import { afterEach, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import type { Socket } from "node:net";
import { join } from "node:path";
import type { Outcome } from "../src/delivery/outcome.ts";
import { type Network, parseNetwork } from "../src/dns/address.ts";
import { createSender, type Sender } from "../src/http/sender.ts";
import { http, type Listener, listen } from "./support/listener.ts";

const support = (name: string) => readFileSync(join(import.meta.dir, "support", name), "utf8");
const BODY = Buffer.alloc(16 * 1024 * 1024, "fluxhook"); // 16 MiB: more than the buffers of loopback hold

const open: { stop(): unknown }[] = [];
afterEach(async () => {
  for (const { stop } of open.splice(0).reverse()) await stop();
});

function senderWith(timeoutMs = 20_000): Sender {
  const sender = createSender({
    timeoutMs,
    allowNetworks: [parseNetwork("127.0.0.0/8") as Network],
    resolve: async () => [{ address: "127.0.0.1", family: 4 }],
    ca: support("ca.pem"),
  });
  open.push({ stop: () => sender.close() });
  return sender;
}

function send(sender: Sender, { port }: Listener, scheme = "http", body = BODY): Promise<Outcome> {
  const url = new URL(`${scheme}://receiver.test:${port}/in`);
  return sender.send({ url, head: `Host: ${url.host}\r\nContent-Length: ${body.length}\r\n`, body }, "1");
}

/** What a receiver has read of one request's body. */
interface Reading {
  readonly socket: Socket;
  readonly bytes: number;
  /** Resolves when the body was read whole, with whether it is what was sent; or when the connection is gone. */
  readonly whole: Promise<boolean>;
}

/** A receiver that answers at the first byte, before it reads on. */
async function answeringEarly(
  respond: (socket: Socket) => void,
  { tls, onBytes = () => {} }: { tls?: string; onBytes?: (reading: Reading) => void } = {},
): Promise<{ listener: Listener; readings: Reading[] }> {
  const readings: Reading[] = [];
  const listener = await listen(() => {}, {
    ...(tls && { tls }),
    onConnection: (socket) => {
      const pieces: Buffer[] = [];
      const { promise, resolve } = Promise.withResolvers<boolean>();
      const reading = { socket, bytes: 0, whole: promise };
      readings.push(reading);
      let head = "";
      const take = (bytes: Buffer): void => {
        pieces.push(bytes);
        reading.bytes += bytes.length;
        onBytes(reading);
        if (reading.bytes === BODY.length) resolve(Buffer.concat(pieces).equals(BODY));
      };
      const takeHead = (bytes: Buffer): void => {
        head += bytes.toString("latin1");
        const end = head.indexOf("\r\n\r\n");
        if (end < 0) return;
        socket.off("data", takeHead).on("data", take);
        respond(socket);
        if (head.length > end + 4) take(Buffer.from(head.slice(end + 4), "latin1"));
      };
      socket.on("data", takeHead);
      socket.on("close", () => resolve(false));
    },
  });
  open.push(listener);
  return { listener, readings };
}

describe("a 2xx that comes before the request has been sent whole", () => {
  const answers: [string, string][] = [
    ["and ends where it says", http(202, "ok")],
    ["and is its connection's last", http(200, "ok", ["Connection: close", "Content-Length: 2"])],
    ["and ends with its connection", http(200, "ok", ["Connection: close"])],
    ["and is longer than we read", http(200, "x".repeat(100_000))],
    ["and says no more than its status", "HTTP/1.1 204 No Content\r\n\r\n"],
  ];
  for (const scheme of ["http", "https"]) {
    test.each(answers)(`%s has the rest sent (${scheme})`, async (_, answer) => {
      const early = await answeringEarly((socket) => void socket.write(answer), {
        ...(scheme === "https" && { tls: support("right.pem") }),
        onBytes: ({ bytes, socket }) => {
          if (bytes === BODY.length && answer.includes("Connection: close")) socket.end();
        },
      });
      const outcome = await send(senderWith(), early.listener, scheme);
      expect(outcome).toMatchObject({ kind: "response", status: Number(answer.slice(9, 12)) });
      expect(await early.readings[0]?.whole).toBe(true);
      expect(early.readings).toHaveLength(1);
    });
  }

  test.each(["http", "https"])(
    "has the rest sent although the receiver says that nothing more will come from it (%s)",
    async (scheme) => {
      const answer = http(200, "ok", ["Connection: close"]);
      const early = await answeringEarly((socket) => void socket.end(answer), {
        ...(scheme === "https" && { tls: support("right.pem") }),
      });
      expect(await send(senderWith(), early.listener, scheme)).toMatchObject({ kind: "response", status: 200 });
      expect(await early.readings[0]?.whole).toBe(true);
    },
  );

  test("leaves a connection that is used again when the answer ends where it says, and nothing came after it", async () => {
    const connectionsAfter = async (respond: (socket: Socket) => void, onBytes = (_: Reading): void => {}) => {
      const { listener, readings } = await answeringEarly(respond, { onBytes });
      const sender = senderWith();
      expect(await send(sender, listener)).toMatchObject({ status: 202 });
      expect(await readings[0]?.whole).toBe(true);
      readings[0]?.socket.on("data", () => readings[0]?.socket.write(http(202)));
      expect(await send(sender, listener, "http", Buffer.from("{}"))).toMatchObject({ status: 202 });
      return readings.length;
    };
    const once = (socket: Socket): void => void socket.write(http(202));
    expect(await connectionsAfter(once)).toBe(1);
    expect(await connectionsAfter((socket) => void socket.end(http(202)))).toBe(2);
    let isSaidAgain = false;
    const again = ({ bytes, socket }: Reading): void => {
      if (bytes > 1_000_000 && !isSaidAgain) isSaidAgain = socket.write(http(202));
    };
    expect(await connectionsAfter(once, again)).toBe(2);
  });

  test("stands when the connection dies while the rest is sent", async () => {
    const early = await answeringEarly((socket) => void socket.write(http(200, "ok")), {
      onBytes: ({ bytes, socket }) => {
        if (bytes > 1_000_000) socket.resetAndDestroy();
      },
    });
    expect(await send(senderWith(), early.listener)).toMatchObject({ kind: "response", status: 200 });
    expect(early.readings).toHaveLength(1);
  });

  test("stands when the worker stops while the rest is sent, but not when the job is another worker's", async () => {
    const early = await answeringEarly((socket) => void socket.pause().write(http(200, "ok")));
    const outcomeOf = async (cancel: (sender: Sender) => void) => {
      const sender = senderWith();
      const outcome = send(sender, early.listener);
      const count = early.readings.length + 1;
      while (early.readings.length < count || early.readings.at(-1)?.bytes === 0) await new Promise(setImmediate);
      for (let turn = 0; turn < 20; turn++) await new Promise(setImmediate); // the answer lies in the kernel, and is heard
      cancel(sender);
      return outcome;
    };
    expect(await outcomeOf((sender) => sender.cancelAll("shutdown"))).toMatchObject({ kind: "response", status: 200 });
    expect(await outcomeOf((sender) => sender.cancel("1", "lock_lost"))).toMatchObject({ code: "lock_lost" });
  });

  test("stands when the receiver does not read the rest before the deadline", async () => {
    const early = await answeringEarly((socket) => void socket.pause().write(http(200, "ok")));
    const outcome = await send(senderWith(500), early.listener);
    expect(outcome).toMatchObject({ kind: "response", status: 200 });
    expect(outcome.durationMs).toBeGreaterThanOrEqual(495);
  });
});

test.each([301, 400, 413, 500])("a %d that comes before the request has been sent whole ends it", async (status) => {
  const early = await answeringEarly((socket) => void socket.pause().write(http(status, "no")));
  const outcome = await send(senderWith(), early.listener);
  expect(outcome).toMatchObject({ kind: "response", status });
  expect(outcome.durationMs).toBeLessThan(10_000);
  early.readings[0]?.socket.resume();
  expect(await early.readings[0]?.whole).toBe(false);
});

describe("on a link of small frames, to a receiver with a small buffer,", () => {
  const script = `
    import { createServer } from "node:net";
    import { createSender } from "./src/http/sender.ts";
    import { parseNetwork } from "./src/dns/address.ts";
    const body = Buffer.alloc(256 * 1024, "fluxhook");
    for (const headers of ["Content-Length: 2", "Content-Length: 2\\r\\nConnection: close"]) {
      const read = Promise.withResolvers();
      const server = createServer((socket) => {
        let bytes = 0;
        socket.on("error", () => {}).on("close", () => read.resolve(bytes));
        socket.on("data", (piece) => {
          if (bytes === 0) socket.write("HTTP/1.1 200 OK\\r\\n" + headers + "\\r\\n\\r\\nok");
          bytes += piece.length;
          socket.pause();
          setImmediate(() => socket.resume());
          if (piece.includes("END")) read.resolve("whole");
        });
      });
      await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
      const sender = createSender({ timeoutMs: 20_000, allowNetworks: [parseNetwork("127.0.0.1")] });
      const url = new URL("http://127.0.0.1:" + server.address().port);
      const head = "Content-Length: " + (body.length + 3) + "\\r\\n";
      const { status } = await sender.send({ url, head, body: Buffer.concat([body, Buffer.from("END")]) }, "1");
      console.log(status, await read.promise);
    }
    process.exit(0);`;
  const isolate = ["unshare", "--map-root-user", "--net", "sh", "-c"];
  const link = `ip link set lo up mtu 1500 && echo "2048 2048 4096" >/proc/sys/net/ipv4/tcp_rmem`;
  const mayIsolate = Bun.which("unshare") !== null && Bun.spawnSync([...isolate, link], { stderr: "ignore" }).success;

  test.skipIf(!mayIsolate)(
    "an event of 256 KiB arrives whole although the 2xx comes first (in a network namespace)",
    async () => {
      const child = Bun.spawn([...isolate, `${link} && exec "$0" -e "$1"`, process.execPath, script], {
        cwd: join(import.meta.dir, ".."),
        stdout: "pipe",
        stderr: "inherit",
      });
      expect(await new Response(child.stdout).text()).toBe("200 whole\n200 whole\n");
    },
    30_000,
  );
});
