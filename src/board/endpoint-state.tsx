/** @jsxImportSource hono/jsx */
/**
 * How a registered endpoint is doing, in a few words: its state, its streak of failures, and what it missed.
 */
import type { FC } from "hono/jsx";
import type { MissedCounts } from "../missed/missed.ts";
import { formatAgo, formatExact, formatSpan } from "../operations/moments.ts";
import type { EndpointWithHealth } from "../registry/registry.ts";
import { formatEvents } from "./endpoint-path.ts";
import { Ago, Mark, type Notice } from "./layout.tsx";

type Shown = Pick<EndpointWithHealth, "state" | "health" | "isDamaged">;

const REASONS = { manual: " by hand", gone: ": it answered 410", failing: ": it kept failing" } as const;

/** The state as a badge, with how long it has lasted. */
export const EndpointStateBadge: FC<{ endpoint: Shown; now: number }> = ({ endpoint, now }) => {
  const { kind, text, since } = describeEndpointState(endpoint, now);
  return (
    <p class={`state ${kind}`} title={since === undefined ? undefined : `since ${formatExact(since)}`}>
      <Mark kind={kind} />
      {text}
    </p>
  );
};

/** An endpoint's state, and since when it is in it, epoch ms. */
function describeEndpointState({ state, health, isDamaged }: Shown, now: number): Notice & { since?: number } {
  if (isDamaged) return { kind: "bad", text: state.kind === "enabled" ? "Damaged" : `Damaged, and ${state.kind}` };
  if (state.kind === "paused") {
    const { since } = state;
    return { kind: "wait", text: `Paused ${formatAgo(now - since)}`, since };
  }
  if (state.kind === "disabled") {
    const { since, reason } = state;
    const text = `Disabled ${formatAgo(now - since)}${REASONS[reason] ?? ""}`;
    return { kind: reason === "manual" ? "wait" : "bad", text, since };
  }
  const { failingSince } = health;
  if (failingSince === undefined) return { kind: "good", text: "Enabled" };
  return { kind: "bad", text: `Failing for ${formatSpan(now - failingSince)}`, since: failingSince };
}

/** Its last 2xx, and how many attempts have failed since. */
export const EndpointHealthNote: FC<{ endpoint: Shown; now: number }> = ({ endpoint: { health }, now }) => {
  const { failures, lastSuccessAt } = health;
  const last =
    lastSuccessAt === undefined ? (
      "no successful attempt yet"
    ) : (
      <>
        last success <Ago at={lastSuccessAt} now={now} />
      </>
    );
  if (failures === 0) return <span>{lastSuccessAt === undefined ? "no attempts yet" : last}</span>;
  return (
    <span>
      {failures === 1 ? "1 failed attempt" : `${failures.toLocaleString("en-US")} failed attempts`} in a row, {last}
    </span>
  );
};

/** `1,000 kept, 3,412 older ones not`; undefined when nothing was missed. */
export function describeMissed({ kept, dropped }: Pick<MissedCounts, "kept" | "dropped">): string | undefined {
  if (kept === 0 && dropped === 0) return undefined;
  if (dropped === 0) return `${formatEvents(kept)} kept`;
  const number = dropped.toLocaleString("en-US");
  return `${kept === 0 ? "no event" : kept.toLocaleString("en-US")} kept, ${number} ${kept === 0 ? "" : "older "}${dropped === 1 ? "one" : "ones"} not`;
}

/** Event types that it wants. */
export const describeWanted = (events: readonly string[] | null): string => events?.join(", ") ?? "all events";
