/** What the log keeps of failed deliveries' responses, with real receivers. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { type Receiver, startReceiver } from "../src/dev/receiver.ts";
import { createFluxhook } from "../src/index.ts";
import { jobData, type Stack, type StackOptions, startStack } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const SECRETS = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw/+8=", "an old one: p4ss/word"];
const ONCE: StackOptions = { policy: { attempts: 1, delaysMs: [], jitter: 0 } };

let receiver: Receiver;
let stack: Stack;
beforeAll(async () => {
  [receiver, stack] = await Promise.all([startReceiver(), startStack(ONCE)]);
});
afterAll(async () => {
  await Promise.all([receiver.stop(), stack.stop()]);
});

/** Deliver an event, and read what the log has of it. */
async function deliver(on = stack, url = receiver.url("/hook?token=tok_8fhq27")) {
  const data = jobData(url, { endpoint: { url, secret: SECRETS } });
  const { state, job } = await on.settled(await on.queue.add("file.created", data));
  const [attempt] = await on.log.list(data.userId, Date.now(), { withResponses: true });
  return { userId: data.userId, state, reason: job.failedReason, attempt };
}

describe("a failed delivery", () => {
  test("is logged with its response, for those who ask for it, and the worker's output has none of it", async () => {
    receiver.answer({ status: 500, headers: { server: "demo", "set-cookie": "sid=1" }, body: "it broke" });
    const { userId, attempt } = await deliver();
    expect(attempt?.response).toEqual({
      status_line: "HTTP/1.1 500 Internal Server Error",
      headers: expect.objectContaining({ server: "demo", date: expect.any(String) }),
      body: "it broke",
    });
    expect(attempt?.response?.headers).not.toHaveProperty("set-cookie");
    expect(await stack.attempts(userId)).toEqual([expect.not.objectContaining({ response: expect.anything() })]);
    expect(JSON.stringify(stack.lines)).not.toContain("it broke");
  });

  test("leaves no secret and no signature in Valkey when the receiver echoes the request", async () => {
    receiver.answer(({ headers, path, body }) => ({
      status: 400,
      headers: { "content-type": "application/json", location: path },
      body: JSON.stringify(
        { headers, path, body: `${body}`, knownSecrets: [...SECRETS, encodeURIComponent(SECRETS[1] as string)] },
        null,
        2,
      ),
    }));
    const already = receiver.requests.length;
    const { userId, attempt } = await deliver();
    const { headers = {} } = receiver.requests[already] ?? {};
    const kept = JSON.stringify(await stack.valkey.zrange(`webhooks:responses:${userId}`, "0", "-1"));
    expect(kept).toContain(headers["webhook-id"] as string); // the rest of the echo is there
    const signatures = (headers["webhook-signature"] as string).split(" ").map((signature) => signature.slice(3));
    expect(signatures).toHaveLength(2);
    const never = [...signatures, headers["x-fluxdrop-signature"] as string, "MfKQ9r8GKYqr", "p4ss", "tok_8fhq27"];
    for (const secret of never) expect(kept).not.toContain(secret);
    expect(attempt?.response?.headers.location).toBe("/hook");
  });

  test("takes no longer when its response's body stalls than without keeping it", async () => {
    const timeoutMs = 400;
    receiver.answer({
      raw: "HTTP/1.1 429 Too Many\r\nContent-Length: 100\r\nRetry-After: 1\r\n\r\nhalf of",
      hang: true,
    });
    const stacks = await Promise.all(
      [0, 1024].map((keepResponseBytes) => startStack({ ...ONCE, timeoutMs, retention: { keepResponseBytes } })),
    );
    const [without, kept] = await Promise.all(stacks.map((one) => deliver(one)));
    expect(without?.attempt).not.toHaveProperty("response");
    expect(kept?.attempt?.response).toMatchObject({ body: "half of", is_truncated: true });
    for (const { attempt } of [without, kept] as NonNullable<typeof kept>[]) {
      expect(attempt).toMatchObject({ status_code: 429, error: "http_429" });
      expect(attempt?.duration_ms).toBeWithin(timeoutMs - 50, timeoutMs + 2_000);
    }
    await Promise.all(stacks.map((one) => one.stop()));
  });

  test("keeps its connection when the body has been read to its end", async () => {
    receiver.answer({ status: 503, body: "x".repeat(3_000) });
    await deliver();
    const before = receiver.connections;
    for (let n = 0; n < 3; n++) expect((await deliver()).attempt?.response).toMatchObject({ is_truncated: true });
    expect(receiver.connections).toBe(before);
  });

  test("has no response to keep when none came", async () => {
    receiver.answer("close");
    expect((await deliver()).attempt).not.toHaveProperty("response");
    receiver.answer({ raw: "SSH-2.0-OpenSSH_9.6\r\n" });
    expect((await deliver()).attempt).toMatchObject({ error: "invalid_response" });
    receiver.answer({});
    const { userId, attempt } = await deliver();
    expect(attempt).not.toHaveProperty("response");
    expect(await stack.valkey.exists(`webhooks:responses:${userId}`)).toBe(0);
  });
});

test("customers see responses only where workers are told to show them", async () => {
  receiver.answer({ status: 422, body: "no such field" });
  const showing = await startStack({ ...ONCE, retention: { showResponse: true } });
  await using fluxhook = createFluxhook({ valkeyUrl: await testValkeyUrl() });
  const [hidden, shown] = [await deliver(), await deliver(showing)];
  expect((await fluxhook.readAttempts(hidden.userId))[0]).not.toHaveProperty("response");
  expect((await fluxhook.readAttempts(shown.userId))[0]).toMatchObject({ response: { body: "no such field" } });
  await showing.stop();
});

test("the package reads whatever workers keep, as many as asked for", async () => {
  receiver.answer({});
  const long = await startStack({ ...ONCE, retention: { logSize: 15 } });
  await using fluxhook = createFluxhook({ valkeyUrl: await testValkeyUrl() });
  const data = jobData(receiver.url());
  const jobs = await long.queue.addBulk(
    Array.from({ length: 17 }, () => ({ name: "file.created", data: { ...data, id: undefined } })),
  );
  await Promise.all(jobs.map((job) => long.settled(job)));
  const all = await fluxhook.readAttempts(data.userId);
  expect(all).toHaveLength(15);
  expect(await fluxhook.readAttempts(data.userId, { limit: 3 })).toEqual(all.slice(0, 3));
  expect(await fluxhook.readAttempts(data.userId, { limit: 3, before: all[2]?.delivery })).toEqual(all.slice(3, 6));
  await expect(fluxhook.readAttempts(data.userId, { limit: 0 })).rejects.toThrow("limit");
  await expect(fluxhook.readAttempts(data.userId, { most: 1 } as never)).rejects.toThrow("most");
  await long.stop();
});
