import { afterEach, expect, test } from "bun:test";
import https from "node:https";
import { connect } from "node:net";
import { type Receiver, type ReceiverOptions, startReceiver } from "../src/dev/receiver.ts";

// Self-signed for localhost and 127.0.0.1, valid until 2126; protects nothing.
const tls = {
  key: `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgoe82cbymKrp8JozC
Uh73gNc9I6fSLx1eqO2KJ516gDmhRANCAARZGaapnjbHUAE1sOxy46n5xqRF5JRZ
OZeQjlA8hR9WBDN8rKdP/y0qdkbT1oQKjzm0WsfmVqnBh30/hd7Sx+k9
-----END PRIVATE KEY-----`,
  cert: `-----BEGIN CERTIFICATE-----
MIIBnDCCAUGgAwIBAgIUEtDianX6WRxkhkzgN1TGDS/Rh0cwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMzA5MDIyMloYDzIxMjYxMDMw
MDkwMjIyWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAARZGaapnjbHUAE1sOxy46n5xqRF5JRZOZeQjlA8hR9WBDN8rKdP/y0q
dkbT1oQKjzm0WsfmVqnBh30/hd7Sx+k9o28wbTAdBgNVHQ4EFgQUqk8+GeDWTrYX
GxfDy6QV2U5mwf8wHwYDVR0jBBgwFoAUqk8+GeDWTrYXGxfDy6QV2U5mwf8wDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDSQAwRgIhANdi9MkiqMLwdNsAxLvxVM+KUI+k4rXTiUoBEQl7y3WAAiEA
nJUbvXPEG9UpeONa2fYjrxglAMAfLw0csbUZsK27FjM=
-----END CERTIFICATE-----`,
};

const started: Receiver[] = [];

afterEach(async () => {
  await Promise.all(started.splice(0).map((receiver) => receiver.stop()));
});

async function start(options?: ReceiverOptions) {
  const receiver = await startReceiver(options);
  started.push(receiver);
  return receiver;
}

const post = (url: string, body: string, headers: Record<string, string> = {}) =>
  fetch(url, { method: "POST", body, headers });

/** Speak HTTP by hand; resolves when the connection is over. */
function speak(port: number, text: string): Promise<{ answer: string; error?: string }> {
  return new Promise((resolve) => {
    let answer = "";
    let error: string | undefined;
    const socket = connect(port, "127.0.0.1", () => socket.write(text));
    socket.on("data", (chunk) => {
      answer += chunk;
    });
    socket.on("error", (reason: NodeJS.ErrnoException) => {
      error = reason.code;
    });
    socket.on("close", () => resolve({ answer, error }));
  });
}

const head = (path: string) => `POST ${path} HTTP/1.1\r\nHost: x\r\nX-Fluxdrop-Event: a\r\nContent-Length: 2\r\n\r\n{}`;

test("records what it received, to the byte, and answers 200", async () => {
  const receiver = await start();
  const before = Date.now();
  const response = await post(receiver.url("/hooks?a=1"), '{"ok": "ä"}', { "X-Fluxdrop-Event": "file.created" });
  expect(response.status).toBe(200);
  expect(await response.text()).toBe("");
  const request = await receiver.next();
  expect(request).toMatchObject({ index: 0, method: "POST", path: "/hooks?a=1" });
  expect(request.body).toEqual(Buffer.from('{"ok": "ä"}'));
  expect(request.json).toEqual({ ok: "ä" });
  expect(request.headers["x-fluxdrop-event"]).toBe("file.created");
  expect(request.receivedAt).toBeWithin(before, Date.now() + 1);
  expect(await request.ended).toBe("answered");
});

test("keeps the case and the order of headers", async () => {
  const receiver = await start();
  receiver.answer("close");
  await speak(receiver.port, head("/"));
  expect((await receiver.next()).rawHeaders).toEqual(["Host", "x", "X-Fluxdrop-Event", "a", "Content-Length", "2"]);
});

test("complains about a body that is not JSON only when it is asked for", async () => {
  const receiver = await start();
  await post(receiver.url(), "{");
  const request = await receiver.next();
  expect(() => request.json).toThrow(SyntaxError);
});

test("answers what the script says, request by request", async () => {
  const receiver = await start();
  receiver.answer((request, index) =>
    index === 0 ? { status: 503, headers: { "Retry-After": "3" }, body: `not yet, ${request.path}` } : undefined,
  );
  const first = await post(receiver.url("/a"), "{}");
  expect([first.status, first.headers.get("retry-after"), await first.text()]).toEqual([503, "3", "not yet, /a"]);
  expect((await post(receiver.url("/b"), "{}")).status).toBe(200);
});

test("answers everything alike when given one answer", async () => {
  const receiver = await start();
  receiver.answer({ status: 410 });
  expect((await post(receiver.url(), "{}")).status).toBe(410);
  expect((await post(receiver.url(), "{}")).status).toBe(410);
});

test("answers 500 with the message of a script that throws", async () => {
  const receiver = await start();
  receiver.answer(() => {
    throw new Error("no such case");
  });
  const response = await post(receiver.url(), "{}");
  expect([response.status, await response.text()]).toEqual([500, "Error: no such case"]);
});

test("answers after a delay", async () => {
  const receiver = await start();
  receiver.answer({ delayMs: 60 });
  const startedAt = performance.now();
  await post(receiver.url(), "{}");
  expect(performance.now() - startedAt).toBeGreaterThanOrEqual(55);
});

test("holds an answer back until the script's promise resolves", async () => {
  const receiver = await start();
  const held = Promise.withResolvers<{ status: number }>();
  receiver.answer(() => held.promise);
  const response = post(receiver.url(), "{}");
  const { ended } = await receiver.next();
  expect(await Promise.race([ended, "still open"])).toBe("still open");
  held.resolve({ status: 202 });
  expect((await response).status).toBe(202);
});

test("closes, resets, or sends bytes that are not HTTP", async () => {
  const receiver = await start();
  receiver.answer(({ path }) => {
    if (path === "/raw") return { raw: "SSH-2.0-not-http\r\n" };
    return path === "/reset" ? "reset" : "close";
  });
  expect(await speak(receiver.port, head("/close"))).toEqual({ answer: "" });
  expect(await speak(receiver.port, head("/reset"))).toEqual({ answer: "", error: "ECONNRESET" });
  expect(await speak(receiver.port, head("/raw"))).toEqual({ answer: "SSH-2.0-not-http\r\n" });
});

test("hangs until the client gives up, and says that it did", async () => {
  const receiver = await start();
  receiver.answer("hang");
  const abort = new AbortController();
  const response = fetch(receiver.url(), { method: "POST", body: "{}", signal: abort.signal });
  const { ended } = await receiver.next();
  abort.abort();
  await expect(response).rejects.toThrow();
  expect(await ended).toBe("aborted");
});

test("hangs in the middle of an answer", async () => {
  const receiver = await start();
  receiver.answer({ raw: "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", hang: true });
  const response = await post(receiver.url(), "{}");
  expect(response.status).toBe(200);
  const { ended } = await receiver.next();
  await receiver.stop();
  expect(await ended).toBe("aborted");
  await expect(response.text()).rejects.toThrow();
});

test("hands each request to one caller, in the order of their asking", async () => {
  const receiver = await start();
  const waiting = [receiver.next(), receiver.next()];
  for (const path of ["/1", "/2", "/3"]) await post(receiver.url(path), "{}");
  const paths = (await Promise.all([...waiting, receiver.next()])).map(({ path }) => path);
  expect(paths).toEqual(["/1", "/2", "/3"]);
});

test("waits for a number of requests without handing them out", async () => {
  const receiver = await start();
  const both = receiver.waitFor(2);
  await post(receiver.url("/1"), "{}");
  await post(receiver.url("/2"), "{}");
  expect((await both).map(({ path }) => path)).toEqual(["/1", "/2"]);
  expect((await receiver.next()).path).toBe("/1");
  expect(receiver.requests).toHaveLength(2);
});

test("does not lose a request to a caller that has given up", async () => {
  const receiver = await start();
  await expect(receiver.next(5)).rejects.toThrow("expected a further request within 5 ms; got 0 in all");
  await post(receiver.url("/late"), "{}");
  expect((await receiver.next()).path).toBe("/late");
  await expect(receiver.waitFor(2, 5)).rejects.toThrow("expected 2 requests within 5 ms; got 1 in all");
});

test("does not count a request whose body never ends", async () => {
  const receiver = await start();
  const socket = connect(receiver.port, "127.0.0.1", () => {
    socket.end("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n{}");
  });
  await new Promise((resolve) => socket.resume().on("close", resolve));
  expect(receiver.requests).toHaveLength(0);
});

test("counts connections, also those without a request", async () => {
  const receiver = await start();
  expect(receiver.connections).toBe(0);
  const socket = connect(receiver.port, "127.0.0.1", () => socket.end("\r\n"));
  await new Promise((resolve) => socket.resume().on("close", resolve));
  expect(receiver.connections).toBe(1);
});

test("speaks HTTPS, and counts connections there too", async () => {
  const receiver = await start({ tls });
  expect(receiver.url("/")).toStartWith("https://127.0.0.1:");
  const status = await new Promise((resolve, reject) => {
    const request = https.request(receiver.url("/"), { method: "POST", ca: tls.cert, agent: false }, (response) => {
      response.resume().on("end", () => resolve(response.statusCode));
    });
    request.on("error", reject).end("{}");
  });
  expect(status).toBe(200);
  expect(receiver.connections).toBe(1);
});

test("stops at once with open connections, tells those who wait, and stops once only", async () => {
  const receiver = await start();
  receiver.answer("hang");
  const response = post(receiver.url(), "{}").catch(() => "cut off"); // caught at once: expect().rejects would block until then
  await receiver.next();
  const waiting = receiver.next().catch((error: Error) => error.message);
  await receiver.stop();
  await receiver.stop();
  expect(await waiting).toBe("expected a further request before the receiver stopped; got 1 in all");
  expect(await response).toBe("cut off");
  await expect(receiver.next()).rejects.toThrow("before the receiver stopped");
  expect((await speak(receiver.port, head("/"))).error).toBe("ECONNREFUSED");
});
