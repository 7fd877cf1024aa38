/**
 * Holding the events of a host, an endpoint or a user, releasing them, and listing what is held: for the board and the command.
 */
import { randomInt } from "node:crypto";
import { endpointKey } from "../delivery/request.ts";
import { changeHolds, readHolds } from "../isolation/hold-store.ts";
import {
  type HeldParty,
  type Hold,
  type HoldKind,
  Holds,
  isSameTarget,
  joinCurrent,
  nameHeld,
} from "../isolation/holds.ts";
import type { OpenShard, OpenShards } from "../queue/open-shard.ts";
import { logKey } from "../queue/own-keys.ts";
import { hasHolds } from "../queue/shards.ts";
import type { Valkey } from "../valkey/connection.ts";
import { parseHost } from "./job-filter.ts";

export type { HoldKind };

/** Upper bound on the holds of a queue, including ended ones that still count: workers look through them. */
export const MAX_HOLDS = 1_000;
/** Upper bound on how long a hold lasts from now. It can be prolonged. */
export const MAX_HOLD_MS = 30 * 24 * 60 * 60 * 1000; // 30 days
/** Upper bound on the length of a reason. */
export const MAX_REASON = 200; // characters

/** What to hold, as {@link Hold} stores it. */
export type HoldTarget = Pick<Hold, "kind" | "target">;

/** A shard that keeps holds, which are for all shards. */
export interface HoldPlace {
  readonly valkey: Valkey;
  readonly queue: string;
}

/** Where holds are: in the first shard, which gets new ones, and in what a move into a cluster left behind. */
export type HoldPlaces = readonly [HoldPlace, ...HoldPlace[]];

/** The places of holds among these shards. */
export const holdPlacesOf = (shards: OpenShards): OpenShard[] => shards.filter(hasHolds);

/** A hold as operators see it: without a URL's query. */
export interface ShownHold extends Omit<Hold, "target"> {
  readonly name: string;
}

/** The most holds were reached. */
export class TooManyHolds extends Error {
  override readonly name = "TooManyHolds";
  constructor() {
    super(`expected at most ${MAX_HOLDS} holds`);
  }
}

/** A target of a known kind; undefined when the text is none. A user is taken as given. */
export function parseTarget(kind: HoldKind, text: string): HoldTarget | undefined {
  if (kind === "user") return { kind, target: text };
  if (kind === "host") {
    const host = parseHost(text);
    return host && { kind, target: host.port === undefined ? host.hostname : `${host.hostname}:${host.port}` };
  }
  if (!URL.canParse(text)) return undefined; // Node 20 has no URL.parse
  const url = new URL(text);
  const isEndpoint = /^https?:$/.test(url.protocol) && url.username === "" && url.password === "";
  return isEndpoint ? { kind, target: endpointKey(url) } : undefined;
}

const HOST_LIKE = /^(localhost|\[[\da-f:.]+\]|[^.:/\s]+(\.[^.:/\s]+)+|[^:/\s]+(?=:\d+$))(:\d+)?$/i;

/** Whether a user with this id has a log, so that the id is in use. Throws when Valkey answers with an error. */
export async function isUserKnown(shards: OpenShards, userId: string): Promise<boolean> {
  const logs = await Promise.all(shards.map(({ valkey, tag }) => valkey.exists(logKey(userId, tag))));
  return logs.includes(1);
}

/** What a text without further indication names: with `://` a URL, in the form of a host name a host, otherwise a user. */
export function kindOf(text: string): HoldKind {
  if (text.includes("://")) return "url";
  return HOST_LIKE.test(text) && parseHost(text) !== undefined ? "host" : "user";
}

/**
 * Hold a target until a time. If it is held already, this changes until when, why and by whom. What another place holds is changed
 * there, since workers may know only that place, and held in the first as well: it outlasts the other place.
 *
 * @returns whether it was held already
 * @throws  {@link TooManyHolds}; when Valkey answers with an error
 */
export async function hold(
  [first, ...others]: HoldPlaces,
  { kind, target }: HoldTarget,
  { until, reason, by }: Pick<Hold, "until" | "reason" | "by">,
  nowMs: number,
): Promise<{ readonly hold: ShownHold; readonly wasHeld: boolean }> {
  const isMeant = (other: Hold) => isSameTarget(other, { kind, target }) && other.until > nowMs;
  const elsewhere = await readAllHolds(others);
  let made: Hold | undefined;
  let wasHeld = false;
  await changeHolds(first.valkey, first.queue, (holds) => {
    const known = [...holds, ...elsewhere];
    const isNew = !holds.some(isMeant);
    if (isNew && holds.length >= MAX_HOLDS) throw new TooManyHolds();
    const present = known.find(isMeant);
    wasHeld = present !== undefined;
    const isFree = present !== undefined && !(isNew && holds.some(({ id }) => id === present.id));
    made = { id: isFree ? present.id : newId(known), kind, target, from: present?.from ?? nowMs, until, reason, by };
    return { write: [made] };
  });
  await Promise.all(
    others.map(({ valkey, queue }) =>
      changeHolds(valkey, queue, (holds) => {
        const present = holds.find(isMeant);
        return present && { write: [{ ...present, until, reason, by }] };
      }),
    ),
  );
  return { hold: show(made as Hold), wasHeld };
}

/** All holds in these places: current ones, and ended ones that still count. Throws when Valkey answers with an error. */
export async function readAllHolds(places: readonly HoldPlace[]): Promise<Hold[]> {
  return (await Promise.all(places.map(({ valkey, queue }) => readHolds(valkey, queue)))).flat();
}

/** Short enough to type; the letter tells it from a job's id. */
function newId(holds: readonly Hold[]): string {
  const id = `h${randomInt(100_000, 1_000_000)}`;
  return holds.some((other) => other.id === id) ? newId(holds) : id;
}

/** A text that names a hold: what it holds, or, without a kind, also its id. */
export interface NamedTarget {
  /** Undefined for any. */
  readonly kind: HoldKind | undefined;
  readonly text: string;
}

/**
 * Release a hold, wherever it is kept. The time for which events were held keeps counting for their age.
 *
 * @returns the holds that are named; released only if there is exactly one
 * @throws  when Valkey answers with an error
 */
export async function release(
  places: readonly HoldPlace[],
  named: NamedTarget | { readonly id: string },
  nowMs: number,
): Promise<ShownHold[]> {
  const isMeant = (held: Hold) => ("id" in named ? held.id === named.id : isNamed(held, named));
  const meant = joinCurrent((await readAllHolds(places)).filter(isMeant), nowMs);
  const [only] = meant;
  if (only === undefined || meant.length > 1) return meant.map(show);
  const released = await Promise.all(places.map((place) => releaseIn(place, only, nowMs)));
  return released.includes(true) ? [show(only)] : []; // others may have released it meanwhile
}

/** @returns whether it was held there */
async function releaseIn({ valkey, queue }: HoldPlace, target: HoldTarget, nowMs: number): Promise<boolean> {
  let write: Hold[] = [];
  await changeHolds(valkey, queue, (holds) => {
    const held = holds.filter((one) => isSameTarget(one, target) && one.until > nowMs);
    write = held.map((one) => ({ ...one, until: nowMs }));
    return write.length === 0 ? undefined : { write };
  });
  return write.length > 0;
}

function isNamed(held: Hold, { kind, text }: NamedTarget): boolean {
  if (kind === undefined && held.id === text) return true;
  if (kind !== undefined && held.kind !== kind) return false;
  return parseTarget(held.kind, text)?.target === held.target;
}

/** What is held now, the hold that ends first first. Throws when Valkey answers with an error. */
export async function listHolds(places: readonly HoldPlace[], nowMs: number): Promise<ShownHold[]> {
  const holds = joinCurrent(await readAllHolds(places), nowMs);
  return holds.sort((a, b) => a.until - b.until).map(show);
}

/** What is held now of a user: the user, or the hosts and endpoints to which the user's events go. */
export async function listHoldsOn(
  places: readonly HoldPlace[],
  userId: string,
  endpoints: readonly string[],
  nowMs: number,
): Promise<ShownHold[]> {
  const held = joinCurrent(await readAllHolds(places), nowMs);
  if (held.length === 0) return [];
  const parties: HeldParty[] = endpoints.flatMap((endpoint) => {
    return URL.canParse(endpoint) ? [{ endpoint, host: new URL(endpoint).origin, user: userId }] : [];
  });
  parties.push({ endpoint: "", host: "", user: userId });
  const isOn = (one: Hold) => {
    const alone = new Holds();
    // Logs and pages name endpoints without their queries, so a hold of one query is shown for all of them.
    alone.replace([{ ...one, target: one.kind === "url" ? one.target.replace(/\?.*$/s, "") : one.target }]);
    return parties.some((party) => alone.until(party, nowMs) > 0);
  };
  return held.filter(isOn).map(show);
}

/** Count, and optionally remove, the holds of a user, ended ones included. Throws when Valkey answers with an error. */
export async function handleHoldsOf(
  places: readonly HoldPlace[],
  userId: string,
  isRemoving: boolean,
): Promise<number> {
  const handle = async ({ valkey, queue }: HoldPlace) => {
    let ids: string[] = [];
    await changeHolds(valkey, queue, (holds) => {
      ids = holds.filter((one) => isSameTarget(one, { kind: "user", target: userId })).map(({ id }) => id);
      return isRemoving && ids.length > 0 ? { remove: ids } : undefined;
    });
    return ids.length;
  };
  return (await Promise.all(places.map(handle))).reduce((sum, count) => sum + count, 0);
}

function show({ target, ...hold }: Hold): ShownHold {
  return { ...hold, name: nameHeld({ kind: hold.kind, target }) };
}
