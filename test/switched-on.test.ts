/** Registered endpoints that are enabled again, or get another URL, while a worker holds back their events. Real workers and receivers. */
import { afterEach, describe, expect, test } from "bun:test";
import type { Outcome } from "../src/delivery/outcome.ts";
import { createFluxhook, type Fluxhook } from "../src/index.ts";
import { AdmissionGate, createGate, type Gate, type ParkedJob, type Permit } from "../src/isolation/gate.ts";
import { createPromotion } from "../src/isolation/promotion.ts";
import { queueKey } from "../src/queue/layout.ts";
import { endAll, open, receiver, stack } from "./support/deliveries.ts";
import { bounded, eventually, type Stack } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

afterEach(endAll);

const SILENCE: Outcome = { kind: "failure", code: "timeout", durationMs: 10_000 };
const IN_TIME_MS = 5_000;

interface Rig {
  readonly system: Stack;
  readonly backend: Fluxhook;
  readonly gate: Gate;
  readonly user: string;
  /** Have a URL be silent for minutes: it is probed every 60 s. */
  silence(url: string): void;
}

async function rig(): Promise<Rig> {
  let [skippedMs, promote] = [0, (_: readonly ParkedJob[]) => {}];
  const gate = createGate({
    slots: 16,
    endpointSlots: 16,
    now: () => performance.now() + skippedMs,
    onPromote: (jobs) => promote(jobs),
  });
  const system = await stack({ gate });
  const user = `usr_${crypto.randomUUID()}`;
  const { valkey, queue } = system;
  promote = createPromotion({ valkey, prefix: queueKey(queue.name), logger: system.logger });
  const valkeyUrl = await testValkeyUrl();
  const backend = createFluxhook({ valkeyUrl, queue: queue.name, allowPlainSecrets: true });
  open.push({ stop: () => backend.close() });
  return {
    ...{ system, backend, gate, user },
    silence(url) {
      for (let times = 0; times < 10; times++) {
        const permit = gate.admit({ endpoint: url, host: new URL(url).origin, user, bytes: 1 });
        if (permit.kind !== "go") throw new Error("expected an attempt");
        gate.release(permit, SILENCE);
        if (gate.openCircuits > 0) skippedMs += 62_000; // the probe is due
      }
      skippedMs -= 62_000;
    },
  };
}

async function enqueue({ backend, user: userId }: Rig, count: number): Promise<void> {
  for (let n = 0; n < count; n++) {
    await backend.enqueue({ event: "file.created", userId, endpoint: { id: "main" }, data: { n } });
  }
}

const parked = ({ system }: Rig, count: number) =>
  eventually(
    () => system.queue.getDelayedCount(),
    (number) => number === count,
  );

describe("events that an open circuit holds back", () => {
  test("are delivered within 5 s once their endpoint is enabled again", async () => {
    const [customer, all] = [await receiver(), await rig()];
    await all.backend.endpoints.create(all.user, { id: "main", url: customer.url("/in") });
    all.silence(customer.url("/in"));
    await enqueue(all, 8);
    await parked(all, 8);
    await all.backend.endpoints.disable(all.user, "main");
    await all.backend.endpoints.enable(all.user, "main");
    await bounded(customer.waitFor(8), () => "all events", IN_TIME_MS);
    expect(all.gate.openCircuits).toBe(0);
  });

  test("are delivered within 5 s once their endpoint has another URL, or has it back", async () => {
    const [before, after, all] = [await receiver(), await receiver(), await rig()];
    await all.backend.endpoints.create(all.user, { id: "main", url: before.url("/in") });
    all.silence(before.url("/in"));
    await enqueue(all, 8);
    await parked(all, 8);
    await all.backend.endpoints.update(all.user, "main", { url: after.url("/in") });
    await bounded(after.waitFor(8), () => "all events at the new URL", IN_TIME_MS);
    await all.backend.endpoints.update(all.user, "main", { url: before.url("/in") });
    await enqueue(all, 1);
    await bounded(before.waitFor(1), () => "an event at the URL of before", IN_TIME_MS);
  });

  test("stay held back when nothing but its description changes", async () => {
    const [customer, all] = [await receiver(), await rig()];
    await all.backend.endpoints.create(all.user, { id: "main", url: customer.url("/in") });
    all.silence(customer.url("/in"));
    await enqueue(all, 2);
    await parked(all, 2);
    await all.backend.endpoints.update(all.user, "main", { description: "CRM" });
    await enqueue(all, 1);
    await parked(all, 3);
    expect(customer.requests).toEqual([]);
  });
});

describe("a registered endpoint that is switched on again", () => {
  const [URL_OF, HOST] = ["https://a.example/in", "https://a.example"];

  /** A gate, and attempts at one URL. `began` is when the user's endpoint was last switched on. */
  function attempts() {
    let nowMs = 1_000;
    const gate = new AdmissionGate({ slots: 256, endpointSlots: 64, now: () => nowMs++, schedule: () => {} });
    const ask = (began: number, user = "u") =>
      gate.admit({ endpoint: URL_OF, host: HOST, user, bytes: 1, registered: { id: "main", began } });
    const fill = (began: number, user = "u") => {
      const permits: Permit[] = [];
      const endpoint = gate.memory.recall(URL_OF, HOST);
      do {
        const answer = ask(began, user);
        if (answer.kind !== "go") break;
        permits.push(answer);
      } while (gate.obstacle({ endpoint, user, bytes: 1 }, nowMs) === undefined); // so that none waits for a turn
      return permits;
    };
    const end = (permits: readonly Permit[], outcome: Outcome) => {
      for (const permit of permits) gate.release(permit, outcome);
    };
    return { gate, ask, fill, end, standing: () => gate.memory.recall(URL_OF, HOST).standing };
  }
  const answer = (status: number, retryAfter?: string): Outcome => ({
    kind: "response",
    status,
    retryAfter,
    durationMs: 5,
  });

  test("gets five attempts at once, whatever its circuit, its limit and its Retry-After were", () => {
    for (const outcome of [SILENCE, answer(503), answer(503, "3600")]) {
      const { gate, fill, end, standing } = attempts();
      end(fill(0), outcome);
      expect([fill(1).length, gate.openCircuits]).toEqual([5, 0]);
      expect(standing()).toBe("silent");
    }
    const { fill, end, standing } = attempts();
    end(fill(0), answer(200));
    expect([standing(), fill(1).length, standing()]).toEqual(["quick", 5, "silent"]);
  });

  test("is held back after five more silent attempts; those that were in flight do not count", async () => {
    const { gate, ask, fill, end } = attempts();
    const before = fill(0);
    const waiting = ask(1);
    if (waiting.kind !== "wait") throw new Error("expected those before to count toward its limit");
    end(before, SILENCE);
    expect(gate.openCircuits).toBe(0);
    end([(await waiting.decision) as Permit, ...fill(1)], SILENCE);
    expect([fill(1).length, gate.openCircuits]).toEqual([0, 1]);
  });

  test("by one of two users takes nothing from the other while it answers", () => {
    const { fill, end, standing } = attempts();
    end(fill(0, "a"), answer(200));
    const permits = fill(1, "b");
    expect([standing(), permits.length]).toEqual(["quick", 10]);
    end(permits, answer(200));
  });

  test("by one of two users takes no more than a new one if it has answered and is silent now", () => {
    const { gate, fill, end, standing } = attempts();
    end(fill(0, "a"), answer(200));
    end(fill(0, "b"), SILENCE);
    expect(gate.openCircuits).toBe(1);
    expect([fill(1, "b").length, standing()]).toEqual([5, "silent"]);
  });
});
