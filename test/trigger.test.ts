/** `fluxhook trigger`, and what the command makes of `WEBHOOK_EVENTS`. */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { startReceiver } from "../src/dev/receiver.ts";
import { EVENT_SAMPLES } from "../src/events.ts";
import { testEventOf } from "../src/operations/test-event.ts";
import { createCommand } from "./support/command.ts";
import { startStack } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

setDefaultTimeout(60_000); // each command is a process that starts

const stack = await startStack({ events: ["file.created", "org.userAdded", "invoice.paid"] });
const receiver = await startReceiver();
afterAll(async () => {
  await stack.stop();
  await receiver.stop();
});
const fluxhook = createCommand({
  VALKEY_URL: await testValkeyUrl(),
  WEBHOOK_QUEUE: stack.queue.name,
  WEBHOOK_EVENTS: "file.created, org.userAdded, invoice.paid",
  SECRET: "s3cret-of-the-test",
});
const to = ["--url", receiver.url(), "--user", "usr_7", "--secret-env", "SECRET"];

test("the sample of an event type is delivered, and --data replaces it", async () => {
  const { out, err, code } = await fluxhook(["trigger", "org.userAdded", ...to, "--wait"]);
  expect([code, err]).toEqual([0, ""]);
  expect(out).toMatch(/^Queued org\.userAdded for usr_7 as job 1\.\nattempt 1 {2}200 {2}\d+ ms\nDelivered\.\n$/);
  expect((await receiver.next()).json).toMatchObject({ event: "org.userAdded", data: EVENT_SAMPLES["org.userAdded"] });

  const data = { test: true };
  const replaced = await fluxhook([
    "trigger",
    "file.created",
    ...to,
    "--data",
    JSON.stringify(data),
    "--wait",
    "--json",
  ]);
  expect(JSON.parse(replaced.out)).toMatchObject({ event: "file.created", user: "usr_7", state: "delivered" });
  expect((await receiver.next()).json).toMatchObject({ event: "file.created", data });
});

test("an event type of the operator's own has no sample: it needs --data", async () => {
  const { err, code } = await fluxhook(["trigger", "invoice.paid", ...to]);
  expect([code, err]).toEqual([
    2,
    "fluxhook: invoice.paid has no sample: it is an event type of your own. Give its --data.\n",
  ]);
  expect((await fluxhook(["trigger", "invoice.paid", ...to, "--data", "{}", "--wait"])).code).toBe(0);
  expect((await receiver.next()).json).toMatchObject({ event: "invoice.paid", data: {} });
});

test("a type that is not in WEBHOOK_EVENTS is refused with those that are, and help and completion have them", async () => {
  for (const args of [
    ["trigger", "share.linked", ...to],
    ["send", "--event", "share.linked", ...to],
  ]) {
    const { err, code } = await fluxhook(args);
    expect([code, err]).toEqual([2, expect.stringContaining("expected ")]);
    expect(err).toEndWith(" one of file.created, org.userAdded, invoice.paid\n");
  }
  expect((await fluxhook(["trigger", "invoice.payed", ...to])).err).toContain("did you mean invoice.paid?");
  expect((await fluxhook(["send", "--help"])).out).toContain("one of file.created, org.userAdded, invoice.paid");
  for (const shell of ["bash", "zsh", "fish"]) {
    const { out } = await fluxhook(["completion", shell]);
    expect(out).toContain("file.created org.userAdded invoice.paid");
    expect(out).not.toContain("share.linked");
  }
});

test("the board's test events are of type file.created, or else of the first type", () => {
  expect(testEventOf(new Set(["invoice.paid", "file.created"]))).toBe("file.created");
  expect(testEventOf(new Set(["invoice.paid", "invoice.voided"]))).toBe("invoice.paid");
});

test("the worker fails an event of another type, with the types there are", async () => {
  const data = { userId: "usr_7", endpoint: { url: receiver.url(), secret: "s3cret-of-the-test" }, data: {} };
  const { state, job } = await stack.settled(await stack.queue.add("share.linked", data));
  expect([state, job.failedReason]).toEqual([
    "failed",
    "name: expected one of file.created, org.userAdded, invoice.paid",
  ]);
});
