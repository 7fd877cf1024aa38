/** `fluxhook find`: which of the ids it is, for people and for programs. */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { startValkey } from "../src/dev/valkey.ts";
import { openQueue } from "../src/queue/worker.ts";
import { createRegistry } from "../src/registry/registry.ts";
import { createLogger } from "../src/runtime/logger.ts";
import { connectValkey } from "../src/valkey/connection.ts";
import { createCommand } from "./support/command.ts";
import { jobData } from "./support/stack.ts";

setDefaultTimeout(60_000); // each command is a process that starts

const server = await startValkey();
const valkey = connectValkey(server.url, "test:find", createLogger("silent").logger);
const queue = openQueue("find", valkey);
const fluxhook = createCommand({ VALKEY_URL: server.url, WEBHOOK_QUEUE: "find" });
afterAll(async () => {
  await queue.close();
  valkey.disconnect();
  await server.stop();
});

const id = crypto.randomUUID();
const delivery = crypto.randomUUID();
const attempt = {
  id,
  delivery,
  attempt: 1,
  event: "file.created",
  job: "7",
  endpoint: "https://a.example/",
  success: true,
};
await valkey.zadd("webhooks:log:usr_1", 1, JSON.stringify(attempt));
const job = await queue.add("file.deleted", jobData("https://b.example/in?token=hush", { userId: "usr_2" }));

test("it says what an id is, and where its job is", async () => {
  const { out, code } = await fluxhook(["find", delivery.toUpperCase()]);
  expect(out).toBe(`Delivery ${delivery}: file.created for usr_1, event ${id}\n  job 7  no longer kept\n`);
  expect(code).toBe(0);
});

test("it tells programs the same", async () => {
  const [host, found] = await Promise.all([
    fluxhook(["find", "b.example", "--json"]),
    fluxhook(["find", job.id as string, "--json"]),
  ]);
  expect(JSON.parse(host.out)).toEqual({
    ...{ text: "b.example", searched: {}, complete: true },
    found: [
      {
        ...{ kind: "host", host: "b.example", open_circuit: false, failed: 0, pending: 1, complete: true },
        events: [expect.objectContaining({ job: job.id, event: "file.deleted", user: "usr_2", place: "wait" })],
      },
    ],
  });
  expect(JSON.parse(found.out).found).toMatchObject([{ kind: "job", found: job.id, user: "usr_2", state: "waiting" }]);
  expect(host.out + found.out).not.toContain("hush");
});

test("it finds a registered endpoint of any user by its id, and tells its state without its URL's query", async () => {
  const registry = createRegistry(valkey, { allowPlain: true });
  for (const userId of ["usr_1", "usr_2"])
    await registry.create(userId, { id: "main", url: "https://a.example/in?token=hush" });
  await registry.disable("usr_2", "main");
  const [shown, listed, none] = await Promise.all([
    fluxhook(["find", "main"]),
    fluxhook(["find", "main", "--json"]),
    fluxhook(["find", "MAIN"]),
  ]);
  expect(shown.out).toBe(
    "Endpoint main of usr_1: enabled\n  https://a.example/in?…\n  fluxhook endpoints show usr_1 main\n" +
      "Endpoint main of usr_2: disabled (by hand)\n  https://a.example/in?…\n  fluxhook endpoints show usr_2 main\n",
  );
  const endpoint = { kind: "endpoint", id: "main", url: "https://a.example/in?…", failing_since: null, damaged: false };
  expect(JSON.parse(listed.out)).toMatchObject({
    found: [
      { ...endpoint, user: "usr_1", state: { kind: "enabled" } },
      { ...endpoint, user: "usr_2", state: { kind: "disabled", reason: "manual", since: expect.any(String) } },
    ],
    complete: true,
  });
  expect([shown.code, listed.code, none.code]).toEqual([0, 0, 1]);
});

test("nothing found is 1, with what was searched; nothing to search for is wrong usage", async () => {
  const [nothing, ...wrong] = await Promise.all([
    fluxhook(["find", crypto.randomUUID(), "--json", "--for", "1s"]),
    fluxhook(["find", " "]),
    fluxhook(["find", "a".repeat(401)]),
    fluxhook(["find", "a", "--for", "long"]),
  ]);
  expect(JSON.parse((nothing as { out: string }).out)).toEqual({
    ...{ text: expect.any(String), found: [], complete: true },
    searched: { jobs: { searched: 1, total: 1 }, logs: { searched: 1, total: 1 } },
  });
  expect([nothing, ...wrong].map((said) => said?.code)).toEqual([1, 2, 2, 2]);
});
