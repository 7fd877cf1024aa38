/** What a sender puts on the wire, when it ends an attempt, and how it gets on in a process of its own. Each other subject has a file. */
import { afterEach, describe, expect, test } from "bun:test";
import { connect } from "node:net";
import { join } from "node:path";
import type { WebhookRequest } from "../src/delivery/request.ts";
import type { Address } from "../src/dns/address.ts";
import type { SenderOptions } from "../src/http/sender.ts";
import { type Exchange, http } from "./support/listener.ts";
import { answering, endAll, failure, fault, requestTo, response, senderWith, to, what } from "./support/sending.ts";

afterEach(endAll);

describe("the request on the wire", () => {
  test("is the contract's, in order and case, and nothing else", async () => {
    const listener = await answering(http(200));
    const request = to(listener, "/in?token=t#fragment");
    await senderWith().send(request, "1");
    const { requestLine, headers, body } = await listener.received(1);
    expect(requestLine).toBe("POST /in?token=t HTTP/1.1");
    expect(headers).toEqual([
      ["Host", `127.0.0.1:${listener.port}`],
      ["User-Agent", "Fluxhook/1.0"],
      ["Content-Type", "application/json"],
      ["Content-Length", String(request.body.length)],
      ["Accept-Encoding", "identity"],
      ["X-Fluxdrop-Event", "file.created"],
      ["X-Fluxdrop-Delivery", "6e2f7f3e-8a3b-4d5c-9f60-0d1e2f3a4b5c"],
      ["X-Fluxdrop-Timestamp", "1760000000"],
      ["X-Fluxdrop-Signature", expect.stringMatching(/^[0-9a-f]{64}$/)],
      ["webhook-id", "2c5ea4c0-4067-51fe-9e7f-1b1c3c8f9a10"],
      ["webhook-timestamp", "1760000000"],
      ["webhook-signature", expect.stringMatching(/^v1,\S{44} v1,\S{44}$/)],
      ["Connection", "keep-alive"],
    ]);
    expect(body).toEqual(request.body);
  });

  test("carries a large body whole", async () => {
    const listener = await answering(http(200));
    const request = requestTo(`http://127.0.0.1:${listener.port}`, { text: "größe🦊".repeat(200_000) });
    expect(what(await senderWith().send(request, "1"))).toEqual(response(200));
    expect((await listener.received(1)).body.equals(request.body)).toBe(true);
  });
});

describe("the deadline", () => {
  const timeoutMs = 200;

  async function timed(request: WebhookRequest, options: Partial<SenderOptions> = {}): Promise<object> {
    const sender = senderWith({ timeoutMs, ...options });
    const outcome = await sender.send(request, "1");
    expect(outcome.durationMs).toBeGreaterThanOrEqual(timeoutMs - 5);
    expect(outcome.durationMs).toBeLessThan(timeoutMs + 500);
    expect(sender.inFlight).toBe(0);
    return what(outcome);
  }

  const dripping = (start: string, drop: string) => (exchange: Exchange) => {
    exchange.socket.write(start);
    const timer = setInterval(() => exchange.socket.write(drop), 20);
    exchange.socket.on("close", () => clearInterval(timer));
  };

  test("covers silence, and ends the connection", async () => {
    const listener = await answering(() => {});
    expect(await timed(to(listener))).toEqual(failure("timeout"));
    await listener.closed(0);
  });

  test("covers a receiver that does not even read", async () => {
    const listener = await answering(() => {}, { onConnection: (socket) => void socket.pause() });
    const request = requestTo(`http://127.0.0.1:${listener.port}`, { text: "x".repeat(20_000_000) });
    expect(await timed(request)).toEqual(failure("timeout"));
  });

  test("covers headers that drip, which leave the status as it is", async () => {
    const listener = await answering(dripping("HTTP/1.1 200 OK\r\nX-Slow: ", "x"));
    expect(await timed(to(listener))).toEqual(response(200));
    await listener.closed(0);
  });

  test("covers 1xx without end", async () => {
    const listener = await answering(dripping("", http(102, "", [])));
    expect(await timed(to(listener))).toEqual(failure("timeout"));
    await listener.closed(0);
  });

  test("covers a body that drips: the status has come, and counts", async () => {
    const listener = await answering(dripping(http(200, "", ["Transfer-Encoding: chunked"]), "1\r\nx\r\n"));
    expect(await timed(to(listener))).toEqual(response(200));
    await listener.closed(0);
  });

  test("covers a body that stops: the status has come, and counts", async () => {
    const listener = await answering(http(503, "", ["Content-Length: 10", "Retry-After: 7"]));
    expect(await timed(to(listener))).toEqual(response(503, "7"));
    await listener.closed(0);
  });

  test("covers a handshake that never ends", async () => {
    const listener = await answering(() => {}, { onConnection: (socket) => void socket.resume() });
    expect(await timed(requestTo(`https://127.0.0.1:${listener.port}`))).toEqual(failure("timeout"));
    await listener.closed(0);
  });

  test("covers a resolver that never answers, which is our fault; a late answer of it connects nowhere", async () => {
    const listener = await answering(http(200));
    const late = Promise.withResolvers<Address[]>();
    const resolve = () => late.promise;
    for (const scheme of ["http", "https"]) {
      const request = requestTo(`${scheme}://receiver.test:${listener.port}`);
      expect(await timed(request, { resolve })).toEqual(fault("resolver"));
    }
    late.resolve([{ address: "127.0.0.1", family: 4 }]);
    await senderWith().send(to(listener), "2"); // a connection made meanwhile would have come first
    expect(listener.connections).toBe(1);
  });

  test("covers a receiver that was found and says nothing: not the resolver's silence", async () => {
    const listener = await answering(() => {});
    const resolve = async (): Promise<Address[]> => [{ address: "127.0.0.1", family: 4 }];
    for (const scheme of ["http", "https"]) {
      const request = requestTo(`${scheme}://receiver.test:${listener.port}`);
      expect(await timed(request, { resolve })).toEqual(failure("timeout"));
    }
  });

  test("lets answers pass that came while the loop was blocked", async () => {
    const count = 50;
    // A process of its own, since this one is blocked: answers 100 ms after the last request came.
    const script = `
      const sockets = [];
      const answer = () => sockets.map((socket) => socket.write(${JSON.stringify(http(200))}));
      const server = require("node:net").createServer((socket) => socket.once("data", () => {
        if (sockets.push(socket) === ${count}) console.log("all"), setTimeout(answer, 100);
      }));
      server.listen(0, "127.0.0.1", () => console.log(server.address().port));`;
    const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe" });
    try {
      const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
      const { value: port } = await reader.read();
      const request = requestTo(`http://127.0.0.1:${port?.trim()}`);
      const sender = senderWith({ timeoutMs: 1000 });
      const startedAt = performance.now();
      const attempts = Array.from({ length: count }, (_, key) => sender.send(request, `${key}`));
      expect((await reader.read()).value).toBe("all\n");
      while (performance.now() < startedAt + 1200); // all answers come and all deadlines pass in here
      expect((await Promise.all(attempts)).map(what)).toEqual(Array(count).fill(response(200)));
    } finally {
      child.kill();
    }
  });

  test("does not let a request leave once the job's lock may be another worker's", async () => {
    const listener = await answering(http(200));
    const sender = senderWith({ timeoutMs: 200, lockMs: 300 });
    const fresh = sender.send(to(listener), "1");
    const startedAt = performance.now();
    while (performance.now() < startedAt + 400); // as a stopped process would
    expect(what(await fresh)).toEqual({ kind: "fault", code: "lock_lost" });
    await sender.send(to(listener), "2");
    const reused = sender.send(to(listener), "3");
    const againAt = performance.now();
    while (performance.now() < againAt + 400);
    expect(what(await reused)).toEqual({ kind: "fault", code: "lock_lost" });
    expect(listener.exchanges).toHaveLength(1);
  });

  test("begins anew, once, for what could not be sent because the loop was blocked", async () => {
    const listener = await answering(http(200));
    const sender = senderWith({ timeoutMs: 300, resolve: () => new Promise(() => {}) });
    const block = (ms: number) => {
      const until = performance.now() + ms;
      while (performance.now() < until);
    };
    const attempt = sender.send(to(listener), "1");
    block(1_000); // the connection is open by then, and the deadline long past
    expect(what(await attempt)).toEqual(response(200));

    const never = sender.send(requestTo("http://name.test/"), "2");
    block(1_000);
    const wokenAt = performance.now();
    expect(what(await never)).toEqual(fault("resolver"));
    expect(performance.now() - wokenAt).toBeGreaterThan(200);
    expect(performance.now() - wokenAt).toBeLessThan(300 + 200);
  });
});

describe("cancelling", () => {
  test("ends one attempt at once, with the fault, and its connection", async () => {
    const listener = await answering(() => {});
    const sender = senderWith({ timeoutMs: 60_000 });
    const first = sender.send(to(listener), "1");
    const second = sender.send(to(listener), "2");
    await listener.received(2);
    expect(sender.inFlight).toBe(2);
    sender.cancel("1", "lock_lost");
    expect(what(await first)).toEqual(fault("lock_lost"));
    expect(sender.inFlight).toBe(1);
    await Promise.race([listener.closed(0), listener.closed(1)]);
    sender.cancel("2", "shutdown");
    expect(what(await second)).toEqual(fault("shutdown"));
  });

  test("ends all attempts at once, whatever they wait for", async () => {
    const silent = await answering(() => {});
    const dripping = await answering(http(200, "", ["Content-Length: 10"]));
    const deaf = await answering(() => {}, { onConnection: (socket) => void socket.resume() });
    const sender = senderWith({ timeoutMs: 60_000, resolve: () => new Promise(() => {}) });
    const attempts = [
      sender.send(to(silent), "1"),
      sender.send(to(dripping), "2"),
      sender.send(requestTo("http://receiver.test/"), "3"),
      sender.send(requestTo(`https://127.0.0.1:${deaf.port}/`), "4"),
    ];
    await Promise.all([silent.received(1), dripping.received(1)]);
    sender.cancelAll("shutdown");
    expect(sender.inFlight).toBe(0);
    expect((await Promise.all(attempts)).map(what)).toEqual(Array(4).fill(fault("shutdown")));
    await Promise.all([silent.closed(0), dripping.closed(0)]);
  });

  test("in the same moment as it began ends it", async () => {
    const listener = await answering(http(200));
    const sender = senderWith();
    const attempt = sender.send(to(listener), "1");
    sender.cancel("1", "lock_lost");
    expect(what(await attempt)).toEqual(fault("lock_lost"));
    expect(listener.exchanges).toEqual([]);
  });

  test("does nothing to what is not under way", async () => {
    const listener = await answering(http(200));
    const sender = senderWith();
    sender.cancel("1", "lock_lost");
    expect(what(await sender.send(to(listener), "1"))).toEqual(response(200));
    sender.cancel("1", "lock_lost");
    expect(what(await sender.send(to(listener), "1"))).toEqual(response(200));
    expect(listener.connections).toBe(1);
  });

  test("is what a second attempt with the same key does to the first", async () => {
    const listener = await answering(({ socket }, index) => {
      if (index > 0) socket.write(http(200));
    });
    const sender = senderWith({ timeoutMs: 60_000 });
    const first = sender.send(to(listener), "1");
    await listener.received(1);
    const second = sender.send(to(listener), "1");
    expect(what(await first)).toEqual(fault("lock_lost"));
    expect(what(await second)).toEqual(response(200));
    expect(sender.inFlight).toBe(0);
    await listener.closed(0);
  });
});

describe("a process of its own", () => {
  const script = `
    import { createSender } from "./src/http/sender.ts";
    import { parseNetwork } from "./src/dns/address.ts";
    const sender = createSender({ timeoutMs: 60_000, allowNetworks: [parseNetwork("127.0.0.0/8")] });
    const url = new URL(process.argv.at(-1));
    const send = (key) => sender.send({ url, head: "Host: " + url.host + "\\r\\nContent-Length: 2\\r\\n", body: Buffer.from("{}") }, key);
    const sent = [send("1"), send("2")];
    if (url.pathname === "/hang") sender.cancelAll("shutdown");
    for (const { kind, status } of await Promise.all(sent)) console.log(kind, status);
    sender.close();`;

  const run = async (url: string, env: Record<string, string> = {}) => {
    const startedAt = performance.now();
    const child = Bun.spawn([process.execPath, "-e", script, url], {
      cwd: join(import.meta.dir, ".."),
      env: { PATH: process.env.PATH, ...env },
      stdout: "pipe",
      stderr: "inherit",
      timeout: 10_000,
    });
    const output = await new Response(child.stdout).text();
    return { exitCode: await child.exited, output, elapsedMs: performance.now() - startedAt };
  };

  test.each([
    ["/", "response 200\nresponse 200\n"],
    ["/hang", "fault undefined\nfault undefined\n"],
  ])("ends by itself: no timer and no socket is left behind (%s)", async (path, expected) => {
    const listener = await answering(({ socket, requestLine }) => {
      if (!requestLine.includes("/hang")) socket.write(http(200));
    });
    const { exitCode, output, elapsedMs } = await run(`http://127.0.0.1:${listener.port}${path}`);
    expect(output).toBe(expected);
    expect(exitCode).toBe(0);
    expect(elapsedMs).toBeLessThan(3500); // an idle connection would have held it for 4 s, a deadline for 60 s
  });

  test("that has no file descriptor left blames nobody else", async () => {
    const listener = await answering(http(200));
    const script = `
      import { closeSync, openSync } from "node:fs";
      import { createSender } from "./src/http/sender.ts";
      import { parseNetwork } from "./src/dns/address.ts";
      const resolve = async () => [{ address: "127.0.0.1", family: 4 }];
      const notThere = () => Promise.reject(Object.assign(new Error(), { code: "ENOTFOUND" }));
      const options = { timeoutMs: 1_000, allowNetworks: [parseNetwork("127.0.0.0/8")] };
      const head = "Content-Length: 2\\r\\n";
      const send = (url, resolve) =>
        createSender({ ...options, resolve }).send({ url: new URL(url), head, body: Buffer.from("{}") }, "1");
      const sendAll = async () => [
        await send("http://127.0.0.1:${listener.port}", resolve),
        await send("http://receiver.test:${listener.port}", resolve),
        await send("https://receiver.test:${listener.port}", resolve),
        await send("http://127.0.0.1:1", resolve),
        await send("http://receiver.test", notThere),
      ].map(({ code, status }) => code ?? status);
      const held = [];
      try { for (;;) held.push(openSync("/dev/null", "r")); } catch {}
      const without = await sendAll();
      for (const descriptor of held) closeSync(descriptor);
      console.log(JSON.stringify([without, await sendAll()]));
      process.exit(0);`;
    const child = Bun.spawn(["sh", "-c", 'ulimit -n 100; exec "$0" -e "$1"', process.execPath, script], {
      cwd: join(import.meta.dir, ".."),
      stdout: "pipe",
      stderr: "inherit",
      timeout: 10_000,
    });
    const [without, afterwards] = (await new Response(child.stdout).json()) as [unknown[], unknown[]];
    expect(without).toEqual(Array(5).fill("resources"));
    expect(afterwards).toEqual([200, 200, expect.any(String), "connection_refused", "dns"]);
  });

  test("goes past every proxy that the environment names", async () => {
    const listener = await answering(http(200));
    const proxy = await answering(http(200));
    const url = `http://127.0.0.1:${proxy.port}`;
    const names = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"].flatMap((name) => [name, name.toLowerCase()]);
    const env = { ...Object.fromEntries(names.map((name) => [name, url])), NODE_USE_ENV_PROXY: "1" };
    const { output } = await run(`http://127.0.0.1:${listener.port}/`, env);
    expect(output).toBe("response 200\nresponse 200\n");
    expect(listener.connections).toBeGreaterThan(0);
    expect(proxy.connections).toBe(0);
  });
});

test("the listener of these tests is one: it accepts what connects", async () => {
  const listener = await answering(http(200));
  const socket = connect(listener.port, "127.0.0.1");
  await new Promise((resolve) => socket.once("connect", resolve));
  socket.destroy();
  await listener.closed(0);
  expect(listener.connections).toBe(1);
});
