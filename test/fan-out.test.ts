/** Events that name no endpoint: to which endpoints they go, and what is made of them. Real workers and receivers. */
import { afterEach, describe, expect, test } from "bun:test";
import { Queue } from "bullmq";
import type { EndpointState } from "../src/endpoints/endpoint.ts";
import { readMissedCounts } from "../src/endpoints/missed.ts";
import { createRegistry, type NewEndpoint, type Registry } from "../src/endpoints/registry.ts";
import { replayMissed } from "../src/endpoints/replay.ts";
import { redeliver } from "../src/operations/redeliver.ts";
import { endpointsKey } from "../src/queue/own-keys.ts";
import type { Valkey } from "../src/valkey/connection.ts";
import { addRaw, endAll, HOUR_MS, inTurn, receiver, stack } from "./support/deliveries.ts";
import { eventually, type Stack, type StackOptions } from "./support/stack.ts";

afterEach(endAll);

const newUser = () => `usr_${crypto.randomUUID()}`;
const registryOf = (valkey: Valkey) => createRegistry(valkey, { allowPlain: true });
const start = (options: StackOptions = {}) => stack({ registry: true, ...options });

/** A user with these endpoints. */
async function userWith(valkey: Valkey, ...endpoints: NewEndpoint[]): Promise<{ userId: string; registry: Registry }> {
  const userId = newUser();
  const registry = registryOf(valkey);
  for (const endpoint of endpoints) await registry.create(userId, endpoint);
  return { userId, registry };
}

const dataOf = (userId: string) => ({ userId, data: { n: 1 } });

describe("an event that names no endpoint", () => {
  test("goes to all of the user's endpoints that want its type", async () => {
    const [all, some, none] = [await receiver(), await receiver(), await receiver()];
    const system = await start();
    const { userId } = await userWith(
      system.valkey,
      { id: "all", url: all.url() },
      { id: "some", url: some.url(), events: ["file.*", "share.linked"] },
      { id: "none", url: none.url(), events: ["org.updated"] },
    );
    const job = await system.queue.add("file.created", dataOf(userId));
    const { job: ended } = await system.settled(job);
    expect(ended.returnvalue).toBe("to 2 endpoints");
    const [one, other] = [await all.next(), await some.next()];
    expect(one.body).toEqual(other.body);
    expect(one.headers["webhook-id"]).toBe(other.headers["webhook-id"] as string);
    expect(none.requests).toHaveLength(0);
  });
});
