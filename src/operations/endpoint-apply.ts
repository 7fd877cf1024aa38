/**
 * Exports endpoints, and makes them as a file says.
 */
import { openHome } from "../homes/homes.ts";
import type { OpenShard, OpenShards } from "../queue/open-shard.ts";
import { endpointsKey } from "../queue/own-keys.ts";
import { buildDocument, isSameDocument } from "../registry/document.ts";
import type { EndpointDocument, StoredEndpoint, StoredSecret } from "../registry/endpoint.ts";
import {
  createSecret,
  isSameSecret,
  liveSecrets,
  rotateSecrets,
  type SecretKeeping,
  sealForStorage,
} from "../registry/secrets.ts";
import { storableWhole } from "../registry/storable.ts";
import { createStore, type Store } from "../registry/store.ts";
import type { FiledEndpoint } from "./endpoint-file.ts";

const GRACE_MS = 24 * 60 * 60 * 1000; // 1 day, for the secret that a file's replaces
const READ_TOGETHER = 50; // users
const SCANNED = 500; // keys per SCAN

/** How endpoints are stored. */
export interface ApplyOptions extends SecretKeeping {
  /** How many a user may have. */
  readonly maxEndpoints: number;
}

/** What is to be done about an endpoint. */
export type ApplyAction = "create" | "update" | "leave" | "delete";

/** A step of a plan. */
export interface ApplyStep {
  readonly userId: string;
  readonly id: string;
  readonly action: ApplyAction;
  /** What the file says; undefined for `delete`. */
  readonly filed?: FiledEndpoint | undefined;
}

/** A plan, or why there is none: all that is wrong, a sentence each. */
export interface ApplyPlan {
  readonly steps: readonly ApplyStep[];
  readonly problems: readonly string[];
}

const storeOf = ({ valkey, tag }: OpenShard, maxEndpoints: number): Store =>
  createStore(valkey, tag, maxEndpoints, (work) => work());

/**
 * Find out what it takes to make the endpoints as a file says. Changes nothing.
 *
 * @param isDeleting  whether endpoints of the file's users that are not in the file are to go
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function planEndpoints(
  shards: OpenShards,
  filed: readonly FiledEndpoint[],
  isDeleting: boolean,
  options: ApplyOptions,
): Promise<ApplyPlan> {
  const users = new Map<string, FiledEndpoint[]>();
  for (const one of filed) users.set(one.userId, [...(users.get(one.userId) ?? []), one]);
  const steps: ApplyStep[] = [];
  const problems: string[] = [];
  const all = [...users];
  for (let at = 0; at < all.length; at += READ_TOGETHER) {
    const read = all.slice(at, at + READ_TOGETHER).map(async ([userId, wanted]) => {
      const store = storeOf(await openHome(shards, userId), options.maxEndpoints);
      const { value, nowMs } = await store.readAll(userId);
      return planUser(userId, wanted, value, nowMs, isDeleting, options);
    });
    for (const plan of await Promise.all(read)) {
      steps.push(...plan.steps);
      problems.push(...plan.problems);
    }
  }
  return { steps, problems };
}

function planUser(
  userId: string,
  wanted: readonly FiledEndpoint[],
  present: readonly StoredEndpoint[],
  nowMs: number,
  isDeleting: boolean,
  options: ApplyOptions,
): ApplyPlan {
  const steps: ApplyStep[] = [];
  const problems: string[] = [];
  for (const filed of wanted) {
    const { id } = filed;
    const found = present.find((one) => one.id === id);
    try {
      const next = nextDocument(filed, found, nowMs, options).document;
      const isLeft = found !== undefined && next === found.document && isInState(filed, found);
      steps.push({ userId, id, action: found === undefined ? "create" : isLeft ? "leave" : "update", filed });
    } catch (error) {
      problems.push(`${userId} ${id}: ${(error as Error).message}`);
    }
  }
  const others = present.filter(({ id }) => !wanted.some((filed) => filed.id === id));
  if (isDeleting) steps.push(...others.map(({ id }) => ({ userId, id, action: "delete" as const })));
  const count = wanted.length + (isDeleting ? 0 : others.length);
  const isGrowing = steps.some(({ action }) => action === "create");
  if (isGrowing && count > options.maxEndpoints) {
    problems.push(`${userId}: expected at most ${options.maxEndpoints} endpoints of a user, got ${count}`);
  }
  return { steps, problems };
}

const isInState = ({ state }: FiledEndpoint, { state: present }: StoredEndpoint): boolean =>
  state === undefined || state.kind === present.kind;

/** What is to be stored, and the secret if one had to be made. The same document object if nothing changes. */
function nextDocument(
  filed: FiledEndpoint,
  found: StoredEndpoint | undefined,
  nowMs: number,
  keeping: SecretKeeping,
): { readonly document: EndpointDocument; readonly made?: string } {
  const { userId, settings, createdAt = nowMs } = filed;
  const present = found?.isDamaged ? undefined : found?.document;
  const made = present === undefined && filed.secrets === undefined ? createSecret() : undefined;
  const given = made === undefined ? (filed.secrets ?? []) : [{ secret: made }];
  const secrets =
    present === undefined ? newSecrets(given, userId, nowMs, keeping) : keptSecrets(present, filed, nowMs, keeping);
  const stored = storableWhole(settings, present, userId, keeping);
  const next = buildDocument(stored, secrets, present?.createdAt ?? Math.min(createdAt, nowMs), nowMs);
  const isSame =
    present !== undefined && isSameDocument(next, { ...present, secrets: liveSecrets(present.secrets, nowMs) });
  return { document: isSame ? present : next, ...(made !== undefined && { made }) };
}

function newSecrets(
  given: NonNullable<FiledEndpoint["secrets"]>,
  userId: string,
  nowMs: number,
  keeping: SecretKeeping,
): StoredSecret[] {
  const stored = given.map(({ secret, createdAt = nowMs, expiresAt }, index) => ({
    ...{ secret: sealForStorage(secret, userId, keeping), createdAt },
    ...(index > 0 && expiresAt !== undefined && { expiresAt }), // the current one always signs
  }));
  return liveSecrets(stored, nowMs);
}

/** An endpoint keeps its secrets, unless the file's current one is not among them: then that is a rotation, with a day's grace. */
function keptSecrets(
  { secrets }: EndpointDocument,
  { userId, secrets: given = [] }: FiledEndpoint,
  nowMs: number,
  keeping: SecretKeeping,
): readonly StoredSecret[] {
  const [current] = given;
  const isKnown =
    current === undefined || secrets.some(({ secret }) => isSameSecret(secret, current.secret, userId, keeping));
  if (isKnown) return secrets;
  return rotateSecrets(secrets, sealForStorage(current.secret, userId, keeping), nowMs, GRACE_MS);
}

/**
 * Do a step, whatever has changed since it was planned. Doing it again changes nothing.
 *
 * @returns the endpoint's secret, if one had to be made
 * @throws  what the registry throws, see src/registry/registry.ts
 */
export async function applyStep(
  shards: OpenShards,
  { userId, id, action, filed }: ApplyStep,
  options: ApplyOptions,
): Promise<string | undefined> {
  const store = storeOf(await openHome(shards, userId), options.maxEndpoints);
  if (action === "leave") return undefined;
  if (action === "delete" || filed === undefined) {
    await store.remove(userId, id, undefined);
    return undefined;
  }
  let made: string | undefined;
  const { value } = await store.write(userId, id, undefined, (present, nowMs) => {
    const next = nextDocument(filed, present, nowMs, options);
    made = next.made;
    return next.document;
  });
  await putInState(store, filed, value);
  return made;
}

async function putInState(store: Store, { userId, id, state }: FiledEndpoint, present: StoredEndpoint): Promise<void> {
  const from = present.state.kind;
  if (state === undefined || state.kind === from) return;
  if (state.kind === "enabled" || from === "disabled") await store.changeState(userId, id, undefined, "enable");
  if (state.kind === "paused") await store.changeState(userId, id, undefined, "pause");
  if (state.kind === "disabled") await store.changeState(userId, id, undefined, "disable", state.reason);
}

/** An endpoint, and whose it is. */
export interface OwnedEndpoint {
  readonly userId: string;
  readonly endpoint: StoredEndpoint;
}

/**
 * Read all endpoints as they are stored, of one user or of all. Those of all users do not come from the index, so that a backup is
 * complete whatever happened to that: this reads the names of all keys, a page at a time.
 *
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function* readStoredEndpoints(shards: OpenShards, userId?: string): AsyncGenerator<OwnedEndpoint> {
  if (userId !== undefined) {
    yield* await readUser(await openHome(shards, userId), userId);
    return;
  }
  for (const shard of shards) {
    const prefix = endpointsKey("", shard.tag);
    const seen = new Set<string>(); // a scan may return a key twice
    let cursor = "0";
    do {
      const [next, keys] = await shard.valkey.scan(cursor, "MATCH", `${prefix}*`, "COUNT", SCANNED, "TYPE", "hash");
      cursor = next;
      const users = [...new Set(keys.map((key) => key.slice(prefix.length)))].filter((user) => !seen.has(user));
      for (const user of users) seen.add(user);
      for (let at = 0; at < users.length; at += READ_TOGETHER) {
        const reads = users.slice(at, at + READ_TOGETHER).map((user) => readUser(shard, user));
        for (const found of await Promise.all(reads)) yield* found;
      }
    } while (cursor !== "0");
  }
}

async function readUser(shard: OpenShard, userId: string): Promise<OwnedEndpoint[]> {
  const { value } = await storeOf(shard, 1).readAll(userId);
  return value.map((endpoint) => ({ userId, endpoint }));
}
