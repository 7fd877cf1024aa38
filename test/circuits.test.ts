import { afterAll, expect, test } from "bun:test";
import { publishCircuits, readCircuits } from "../src/circuits.ts";
import { createGate } from "../src/gate.ts";
import { createLogger } from "../src/logger.ts";
import { connectValkey } from "../src/valkey.ts";
import { eventually } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const valkey = connectValkey(await testValkeyUrl(), "test:circuits", createLogger("silent").logger);
afterAll(() => valkey.disconnect());

const SILENT = { kind: "failure", code: "timeout", durationMs: 1 } as const;

async function silence(gate: ReturnType<typeof createGate>, endpoint: string): Promise<void> {
  for (let failures = 0; failures < 5; failures++) {
    const turn = await gate.admit(endpoint, false);
    expect(turn.kind).toBe("go");
    gate.release(endpoint, SILENT, turn);
  }
}

test("a gate lists the endpoints whose circuit is open, and only those", async () => {
  const gate = createGate({ slots: 16, endpointSlots: 16 });
  expect(gate.listOpen()).toEqual([]);
  await silence(gate, "https://a.example/x");
  await gate.admit("https://b.example/", false);
  expect(gate.listOpen()).toEqual(["https://a.example/x"]);
});

test("hosts with an open circuit are published while it is open, without their paths", async () => {
  const queue = crypto.randomUUID();
  const gate = createGate({ slots: 16, endpointSlots: 16 });
  await silence(gate, "https://b.example:8443/hooks/token-in-the-path");
  await silence(gate, "https://b.example:8443/other");
  await silence(gate, "https://a.example/x");
  const stop = publishCircuits({ valkey, queue, gate, periodMs: 20 });
  const hosts = await eventually(
    () => readCircuits(valkey, queue, Date.now()),
    ({ length }) => length > 0,
  );
  stop();
  expect(hosts).toEqual(["a.example", "b.example:8443"]);
  expect(await readCircuits(valkey, queue, Date.now() + 60_000)).toEqual([]);
  expect(await valkey.pttl(`webhooks:circuits:${queue}`)).toBeGreaterThan(0);
});

test("writes nothing while all circuits are closed", async () => {
  const queue = crypto.randomUUID();
  const asked = Promise.withResolvers<void>();
  let times = 0;
  const listOpen = () => {
    if (++times === 3) asked.resolve();
    return [];
  };
  const stop = publishCircuits({ valkey, queue, gate: { listOpen }, periodMs: 5 });
  await asked.promise;
  stop();
  expect(await valkey.exists(`webhooks:circuits:${queue}`)).toBe(0);
});
