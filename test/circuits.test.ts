import { afterAll, expect, test } from "bun:test";
import { createGate, type Permit } from "../src/isolation/gate.ts";
import { publishCircuits, readCircuits } from "../src/isolation/open-circuits.ts";
import { createLogger } from "../src/runtime/logger.ts";
import { connectValkey } from "../src/valkey/connection.ts";
import { eventually } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const valkey = connectValkey(await testValkeyUrl(), "test:circuits", createLogger("silent").logger);
afterAll(() => valkey.disconnect());

const SILENT = { kind: "failure", code: "timeout", durationMs: 1 } as const;

function silence(gate: ReturnType<typeof createGate>, endpoint: string): void {
  for (let failures = 0; failures < 5; failures++) {
    const turn = gate.admit({ endpoint, host: new URL(endpoint).origin, user: "usr_1", bytes: 100 });
    expect(turn.kind).toBe("go");
    gate.release(turn as Permit, SILENT);
  }
}

test("a gate lists the endpoints whose circuit is open, and only those, without their queries", () => {
  const gate = createGate({ slots: 16, endpointSlots: 16 });
  expect(gate.listOpen()).toEqual([]);
  silence(gate, "https://a.example/x?token=secret");
  gate.admit({ endpoint: "https://b.example/", host: "https://b.example", user: "usr_1", bytes: 100 });
  expect(gate.listOpen()).toEqual(["https://a.example/x"]);
});

test("hosts with an open circuit are published while it is open, without their paths", async () => {
  const queue = crypto.randomUUID();
  const gate = createGate({ slots: 16, endpointSlots: 16 });
  silence(gate, "https://b.example:8443/hooks/token-in-the-path");
  silence(gate, "https://b.example:8443/other");
  silence(gate, "https://a.example/x");
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
