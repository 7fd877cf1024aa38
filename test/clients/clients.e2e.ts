/**
 * Real clients of other languages: BullMQ for Python as a producer, and receivers with the official Standard Webhooks libraries.
 * A client that cannot be installed here is listed as not run, with the reason in the title.
 */
import { afterAll, describe, expect, test } from "bun:test";
import { startReceiver } from "../../src/dev/receiver.ts";
import { createRegistry } from "../../src/registry/registry.ts";
import { bounded, jobData, startStack } from "../support/stack.ts";
import { testValkeyUrl } from "../support/valkey.ts";
import { type Installed, installClients } from "./install.ts";

const clients = await installClients();
const once = { attempts: 1, delaysMs: [1], jitter: 0 };
const stack = await startStack({ policy: once, registry: true });
afterAll(() => stack.stop());

const newSecret = () => `whsec_${Buffer.from(crypto.getRandomValues(new Uint8Array(24))).toString("base64")}`;
const SECRET = newSecret();
const PREVIOUS = newSecret();
const PLAIN = "a secret that is no base64, and has no prefix";

describe("the receiver in", () => {
  for (const [language, client] of Object.entries(clients)) {
    if ("missing" in client) test.skip(`${language}: not run, ${client.missing}`, () => {});
    else describe(language, () => describeReceiver(client));
  }

  test("JavaScript verifies an event", async () => {
    const { Webhook } = await import("standardwebhooks");
    const receiver = await startReceiver();
    receiver.answer(({ headers, body }) => {
      new Webhook(SECRET).verify(body.toString(), headers as Record<string, string>); // throws unless it is right
      return { status: 204 };
    });
    expect(await deliver(receiver.url("/"), SECRET)).toBe(204);
    await receiver.stop();
  });
});

function describeReceiver(client: Installed): void {
  test("verifies an event signed with a whsec_ secret, and refuses one signed with another", async () => {
    await using receiver = await startProgram(client, SECRET);
    expect(await deliver(receiver.url, SECRET)).toBe(204);
    expect(await deliver(receiver.url, PREVIOUS)).toBe(401);
  });

  test("verifies with either secret while it is rotated", async () => {
    await using updated = await startProgram(client, SECRET);
    await using waiting = await startProgram(client, PREVIOUS);
    for (const { url } of [updated, waiting]) expect(await deliver(url, [SECRET, PREVIOUS])).toBe(204);
  });

  test("verifies any other secret only when it is given as bytes", async () => {
    await using asText = await startProgram(client, PLAIN);
    await using asBytes = await startProgram(client, PLAIN, { RAW: "1" });
    expect(await deliver(asText.url, PLAIN)).toBe(401);
    expect(await deliver(asBytes.url, PLAIN)).toBe(204);
  });
}

const python = clients.Python;
if (python === undefined || "missing" in python) {
  test.skip(`BullMQ for Python: not run, ${python?.missing}`, () => {});
} else {
  test("BullMQ for Python adds, in bulk, with priority, delay, retries, as a flow and for registered endpoints, and all arrive with every digit", async () => {
    const receiver = await startReceiver();
    await createRegistry(stack.valkey, { allowPlain: true }).put("usr_python", "main", {
      url: receiver.url("/"),
      secret: SECRET,
    });
    const ways = ["add", "bulk-0", "bulk-1", "bulk-2", "priority", "delay", "retry", "flow-child", "flow-parent"];
    ways.push("registered", "all");
    const arrived: string[] = [];
    let isRefused = false;
    const complete = Promise.withResolvers<void>();
    receiver.answer(({ body, json }) => {
      if (!body.includes('"fileId":9007199254740993')) return { status: 400 };
      const { data } = json as { data: { way: string } };
      if (data.way === "retry" && !isRefused) {
        isRefused = true;
        return { status: 500 };
      }
      arrived.push(data.way);
      if (arrived.length === ways.length) complete.resolve();
      return { status: 204 };
    });
    const args = [await testValkeyUrl(), stack.queue.name, receiver.url("/"), SECRET];
    const child = Bun.spawn([...(python.producer as string[]), ...args], { stderr: "pipe" });
    const errors = await new Response(child.stderr).text();
    expect({ code: await child.exited, errors }).toEqual({ code: 0, errors: "" });
    await bounded(complete.promise, () => `${ways.join(", ")}, got ${arrived.join(", ")}`);
    expect(arrived.toSorted()).toEqual(ways.toSorted());
    await receiver.stop();
  });
}

/** Deliver one event. Returns the status of the answer. */
async function deliver(url: string, secret: string | string[]): Promise<number | null | undefined> {
  const data = jobData(url, { endpoint: { url, secret } });
  const job = await stack.queue.add("file.created", data);
  await stack.settled(job);
  return (await stack.attempts(data.userId))[0]?.status_code;
}

/** Start a receiver, which prints its port. */
async function startProgram({ receiver }: Installed, secret: string, env: Record<string, string> = {}) {
  const child = Bun.spawn([...receiver], {
    env: { ...process.env, SECRET: secret, ...env },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const port = await bounded(readPort(child.stdout), () => "a port on stdout");
  const stop = async (): Promise<void> => {
    child.kill();
    await child.exited;
  };
  return { url: `http://127.0.0.1:${port}/`, [Symbol.asyncDispose]: stop };
}

async function readPort(stdout: ReadableStream<Uint8Array>): Promise<string> {
  let text = "";
  for await (const chunk of stdout) {
    text += Buffer.from(chunk).toString();
    const port = /^listening (\d+)\n/.exec(text)?.[1];
    if (port !== undefined) return port;
  }
  throw new Error(`expected "listening <port>", got ${text}`);
}
