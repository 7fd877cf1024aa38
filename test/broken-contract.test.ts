/** Jobs that break the contract, and jobs as other languages' clients write them. */
import { afterEach, describe, expect, test } from "bun:test";
import { addRaw, endAll, inTurn, receiver, stack, trail } from "./support/deliveries.ts";
import { jobData } from "./support/stack.ts";

afterEach(endAll);

describe("a broken contract", () => {
  const url = "https://customer.example/?leak-query=1";
  const secret = "leak-secret";
  const good = { userId: "usr_1", endpoint: { url, secret }, data: {} };

  test.each([
    ["an unknown event type", "file.renamed", good, ["name"]],
    ["no data", "file.created", {}, ["data.userId", "data.endpoint", "data.data"]],
    ["a user id with a space", "file.created", { ...good, userId: "usr leak-user" }, ["data.userId"]],
    ["a user id that is too long", "file.created", { ...good, userId: "u".repeat(129) }, ["data.userId"]],
    ["no URL", "file.created", { ...good, endpoint: { url: "leak-url", secret } }, ["data.endpoint.url"]],
    ["a file URL", "file.created", { ...good, endpoint: { url: "file:///leak-url", secret } }, ["data.endpoint.url"]],
    [
      "a URL with a password",
      "file.created",
      { ...good, endpoint: { url: "https://user:leak-password@customer.example/", secret } },
      ["data.endpoint.url"],
    ],
    ["an empty secret", "file.created", { ...good, endpoint: { url, secret: "" } }, ["data.endpoint.secret"]],
    ["no secret at all", "file.created", { ...good, endpoint: { url, secret: [] } }, ["data.endpoint.secret"]],
    [
      "a secret that is not base64",
      "file.created",
      { ...good, endpoint: { url, secret: [secret, "whsec_leak-base64!"] } },
      ["data.endpoint.secret"],
    ],
    ["a secret in an object", "file.created", { ...good, endpoint: { url, secret: { leak: "leak" } } }, ["secret"]],
    ["a list for data", "file.created", { ...good, data: ["leak-data"] }, ["data.data"]],
    ["an id that is no UUID", "file.created", { ...good, id: "leak-id" }, ["data.id"]],
    [
      "everything wrong at once",
      "leak-name",
      { userId: 7, endpoint: { url: 7, secret: 7 }, data: null, id: 7 },
      ["name", "data.userId", "data.endpoint.url", "data.endpoint.secret", "data.data", "data.id"],
    ],
  ])("(%s) fails at once, names the fields and shows no value", async (_, name, data, fields) => {
    const system = await stack();
    const job = await system.queue.add(name, data);
    const { state, job: ended } = await system.settled(job);
    expect(state).toBe("failed");
    expect(ended.attemptsMade).toBe(1);
    for (const field of fields) expect(ended.failedReason).toContain(field);
    expect(`${ended.failedReason}${JSON.stringify(system.lines)}`).not.toContain("leak");
    expect(system.lines).toMatchObject([{ message: "job.rejected", job: job.id, reason: ended.failedReason }]);
    expect(await system.queue.getFailedCount()).toBe(1);
    expect(await system.metrics.registry.metrics()).toContain("fluxhook_rejected_jobs_total 1");
  });

  test("does not keep the worker from the next job", async () => {
    const customer = await receiver();
    const system = await stack({ concurrency: 1 });
    const bad = await system.queue.add("file.created", { userId: "" }, { attempts: 5, backoff: 1 });
    const fine = await system.queue.add("file.created", jobData(customer.url()));
    expect((await system.settled(bad)).job.attemptsMade).toBe(1);
    expect((await system.settled(fine)).state).toBe("completed");
  });
});

describe("a job of another language's client", () => {
  test.each([
    ["Python", '{"attempts":0,"delay":0}'],
    ["PHP", '{"delay":0,"attempts":0}'],
    ["Elixir", "{}"],
    [
      "one that stores null",
      '{"attempts":0,"delay":0,"backoff":null,"removeOnComplete":null,"removeOnFail":null,"stackTraceLimit":null,"priority":null,"kl":null,"de":null}',
    ],
    ["one that stores floats", '{"attempts":0.0,"delay":0.0,"timestamp":1.7e12}'],
  ])("of %s follows the worker's policy", async (_, opts) => {
    const customer = await receiver();
    customer.answer(inTurn(500, 500, 500, 200));
    const system = await stack();
    // Python and PHP escape what is not ASCII; the body that is signed does not.
    const data = JSON.stringify(jobData(customer.url("/raw"), { data: { name: "ü" } })).replace("ü", "\\u00fc");
    const job = await addRaw(system, "file.created", data, opts);
    const { state, job: ended } = await system.settled(job);
    expect(state).toBe("failed");
    expect(ended.attemptsMade).toBe(3);
    const requests = await customer.waitFor(3);
    expect(requests.length).toBe(3);
    expect(requests[0]?.body.toString()).toContain('"data":{"name":"ü"}');
    expect(requests[2]?.body).toEqual(requests[0]?.body as Buffer);
    expect(await system.queue.getFailedCount()).toBe(1); // kept, as the worker's retention has it

    const good = await addRaw(system, "file.created", data, opts);
    expect((await system.settled(good)).state).toBe("completed");
    expect(await system.queue.getCompletedCount()).toBe(1);
  });

  test("whose data is no JSON fails at once, and the worker goes on", async () => {
    const customer = await receiver();
    const system = await stack();
    const broken = await Promise.all(
      ["", "not json leak-secret", '"text"', "[]", "null", "7"].map((data) =>
        addRaw(system, "file.created", data, '{"attempts":0}'),
      ),
    );
    for (const job of broken) {
      const { state, job: ended } = await system.settled(job);
      expect(state).toBe("failed");
      expect(ended.attemptsMade).toBe(1);
      expect(ended.failedReason).toContain("data");
      expect(await trail(system, job)).not.toContain("leak-secret");
    }
    const good = await system.queue.add("file.created", jobData(customer.url()));
    expect((await system.settled(good)).state).toBe("completed");
  });
});
