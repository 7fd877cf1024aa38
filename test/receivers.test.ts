import { afterEach, describe, expect, test } from "bun:test";
import { createHmac } from "node:crypto";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import express from "express";
import { Webhook } from "standardwebhooks";
import { EVENT_TYPES } from "../src/delivery/contract.ts";
import { startReceiver } from "../src/dev/receiver.ts";
import { bounded, jobData, startStack } from "./support/stack.ts";

const open: { stop(): Promise<void> }[] = [];

afterEach(async () => {
  for (const { stop } of open.splice(0).reverse()) await stop();
});

async function start<T extends { stop(): Promise<void> }>(starting: Promise<T>): Promise<T> {
  const started = await starting;
  open.push(started);
  return started;
}

describe("the Express receiver of the public documentation", () => {
  /** What a customer has who follows Flux Drop's documentation to the letter. */
  async function startExpress(secret: string) {
    const accepted: { event: string; delivery: string; body: { id: string; data: unknown } }[] = [];
    const app = express();
    app.post("/webhooks", express.raw({ type: "application/json" }), (req, res) => {
      const signature = req.headers["x-fluxdrop-signature"];
      const expected = createHmac("sha256", secret).update(req.body).digest("hex");
      if (signature !== expected) {
        res.status(401).send("Invalid signature");
        return;
      }
      accepted.push({
        event: req.headers["x-fluxdrop-event"] as string,
        delivery: req.headers["x-fluxdrop-delivery"] as string,
        body: JSON.parse(req.body),
      });
      res.status(200).send("OK");
    });
    const server = await new Promise<Server>((resolve) => {
      const listening = app.listen(0, "127.0.0.1", () => resolve(listening));
    });
    const { port } = server.address() as AddressInfo;
    return {
      url: `http://127.0.0.1:${port}/webhooks`,
      accepted,
      async stop() {
        const closed = new Promise((resolve) => server.close(resolve));
        server.closeAllConnections();
        await closed;
      },
    };
  }

  test("verifies every type of event", async () => {
    const secret = "top secret ✓ ünïcode";
    const customer = await start(startExpress(secret));
    const stack = await start(startStack());
    for (const type of EVENT_TYPES) {
      const data = jobData(customer.url, { endpoint: { url: customer.url, secret }, data: { text: "ü 😀 \u2028" } });
      const { state } = await stack.settled(await stack.queue.add(type, data));
      expect(state).toBe("completed");
    }
    expect(customer.accepted.map(({ event }) => event)).toEqual([...EVENT_TYPES]);
    expect(customer.accepted[0]?.body.data).toEqual({ text: "ü 😀 \u2028" });
  });

  test.each([
    ["with a whsec_ prefix is used as it stands", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", 200],
    ["that is the wrong one is refused", "another", 401],
  ])("and a secret %s", async (_, secret, status) => {
    const customer = await start(startExpress("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"));
    const stack = await start(startStack({ policy: { attempts: 1, delaysMs: [1], jitter: 0 } }));
    const data = jobData(customer.url, { endpoint: { url: customer.url, secret } });
    await stack.settled(await stack.queue.add("file.created", data));
    expect(await stack.attempts(data.userId)).toMatchObject([{ status_code: status }]);
  });

  test("knows the current secret while it is rotated, whichever comes second", async () => {
    const customer = await start(startExpress("current"));
    const stack = await start(startStack());
    const data = jobData(customer.url, { endpoint: { url: customer.url, secret: ["current", "previous"] } });
    expect((await stack.settled(await stack.queue.add("file.created", data))).state).toBe("completed");
  });

  test("takes a large body", async () => {
    const customer = await start(startExpress("s"));
    const stack = await start(startStack());
    const data = jobData(customer.url, {
      endpoint: { url: customer.url, secret: "s" },
      data: { x: "y".repeat(90_000) },
    });
    expect((await stack.settled(await stack.queue.add("file.created", data))).state).toBe("completed");
  });
});

describe("the standardwebhooks package", () => {
  const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
  const rotated = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
  const plain = "not base64 at all";

  async function receive(secrets: string | string[]) {
    const customer = await start(startReceiver());
    const stack = await start(startStack());
    const data = jobData(customer.url(), { endpoint: { url: customer.url(), secret: secrets }, data: { ü: "😀" } });
    await stack.queue.add("share.linked", data);
    const { body, headers } = await bounded(customer.next(), () => "a request");
    return { body, headers: headers as Record<string, string> };
  }

  test("accepts a delivery", async () => {
    const { body, headers } = await receive(secret);
    expect(new Webhook(secret).verify(body, headers)).toMatchObject({ event: "share.linked", data: { ü: "😀" } });
  });

  test("accepts a delivery while the secret is rotated, by either", async () => {
    const { body, headers } = await receive([secret, rotated]);
    for (const known of [secret, rotated]) {
      expect(new Webhook(known).verify(body, headers)).toMatchObject({ event: "share.linked" });
    }
    expect(headers["webhook-signature"]?.split(" ").length).toBe(2);
  });

  test("accepts a secret that is not base64, taken raw", async () => {
    const { body, headers } = await receive([plain, secret]);
    expect(new Webhook(plain, { format: "raw" }).verify(body, headers)).toMatchObject({ event: "share.linked" });
    expect(new Webhook(secret).verify(body, headers)).toMatchObject({ event: "share.linked" });
  });

  test("refuses another secret, another body and another id", async () => {
    const { body, headers } = await receive(secret);
    expect(() => new Webhook(rotated).verify(body, headers)).toThrow();
    expect(() => new Webhook(secret).verify(`${body} `, headers)).toThrow();
    expect(() => new Webhook(secret).verify(body, { ...headers, "webhook-id": "another" })).toThrow();
  });
});
