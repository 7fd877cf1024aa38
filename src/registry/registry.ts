/**
 * The registry of endpoints: creates, changes, shows and deletes what users have registered. What Valkey holds is described in
 * store.ts.
 */
import { randomBytes } from "node:crypto";
import { DEFAULT_EVENTS, describeEventTypes } from "../delivery/contract.ts";
import { UsageError } from "../runtime/usage-error.ts";
import type { Valkey } from "../valkey/connection.ts";
import {
  applyChange,
  buildDocument,
  checkEndpointId,
  checkGrace,
  checkUserId,
  checkVersion,
  type EndpointSettings,
  isSameDocument,
  parseChange,
  parseSettings,
} from "./document.ts";
import type { DisabledReason, StoredEndpoint } from "./endpoint.ts";
import { type ExplainOptions, type Explanation, explain } from "./explain.ts";
import { NOTHING_KNOWN } from "./health.ts";
import { ConflictError, NotFoundError } from "./refusals.ts";
import { createSecret, isSameSecret, rotateSecrets, type SecretKeeping, sealForStorage } from "./secrets.ts";
import { type Endpoint, type EndpointWithHealth, showEndpoint } from "./shown.ts";
import { storable, storableWhole } from "./storable.ts";
import { createStore, type Found, type FoundWithHealth, type Run, type StateAction, type Store } from "./store.ts";

export type { Endpoint, EndpointWithHealth } from "./shown.ts";

const DEFAULT_MAX_ENDPOINTS = 50; // of a user
const DEFAULT_GRACE_SECONDS = 24 * 60 * 60; // 1 day
const ID_BYTES = 16; // 128 bits
const ID_DIGITS = 22; // of base62, for as many bits

/** An endpoint to create. */
export interface NewEndpoint extends EndpointSettings {
  /** The backend's own: 1 to 64 letters, digits, underscores and hyphens. Generated when missing. */
  readonly id?: string | undefined;
  /** Plain or sealed. Generated when missing. */
  readonly secret?: string | undefined;
}

/** For a change that is meant for one version of an endpoint. */
export interface IfVersion {
  /** Fail with a ConflictError unless the endpoint still has this version. */
  readonly ifVersion?: string | undefined;
}

/** How to rotate an endpoint's secret. */
export interface RotateOptions extends IfVersion {
  /** How long the present secrets still sign, 0 to 604,800 (7 days); 86,400 (1 day) by default. */
  readonly graceSeconds?: number | undefined;
  /** The new secret, plain or sealed. Generated when missing. */
  readonly secret?: string | undefined;
}

/** An endpoint and its new secret, which is returned this once. */
export interface WithSecret {
  readonly endpoint: Endpoint;
  /** As generated, or as given. */
  readonly secret: string;
}

export interface RegistryOptions extends Partial<SecretKeeping> {
  /** The shard's, see src/queue/shards.ts. */
  readonly tag?: string | undefined;
  /** Those that endpoints may want. */
  readonly eventTypes?: ReadonlySet<string> | undefined;
  /** How many endpoints a user may have; 50 by default. */
  readonly maxEndpoints?: number | undefined;
  /** By default once. */
  readonly run?: Run | undefined;
}

/**
 * The endpoints of one shard's users.
 *
 * All calls throw UsageError when something is invalid, and NotFoundError when the user has no such endpoint. Changes throw
 * ConflictError when the endpoint does not have the version of `ifVersion`, or when others keep changing it. Valkey's errors are
 * passed on. A call that throws has changed nothing, unless the connection was lost.
 */
export interface Registry {
  /** Register an endpoint. @throws ConflictError when its id is taken; LimitError when the user has too many */
  create(userId: string, endpoint: NewEndpoint): Promise<WithSecret>;
  /**
   * Register an endpoint under an id, or give an existing one exactly these settings. Repeating it changes nothing. An existing one
   * keeps its secrets unless another one is given, which then rotates them with a day's grace.
   *
   * @returns the secret only if one was generated
   */
  put(userId: string, id: string, endpoint: Omit<NewEndpoint, "id">, options?: IfVersion): Promise<Put>;
  get(userId: string, id: string): Promise<EndpointWithHealth>;
  /** All of a user's, oldest first. */
  list(userId: string): Promise<EndpointWithHealth[]>;
  /** Where an event of this type goes that names no endpoint, and why not to the others. Nothing is enqueued. */
  explain(userId: string, eventType: string, options?: ExplainOptions): Promise<Explanation>;
  /** Change some settings; those that are left out stay, and null clears one. */
  update(userId: string, id: string, change: Partial<EndpointSettings>, options?: IfVersion): Promise<Endpoint>;
  /** Sign with a new secret, and for a while with the present ones too. @throws LimitError when too many would sign */
  rotate(userId: string, id: string, options?: RotateOptions): Promise<WithSecret>;
  /** Let events wait; their age stands still. @throws ConflictError when it is disabled */
  pause(userId: string, id: string, options?: IfVersion): Promise<Endpoint>;
  /** End a pause. @throws ConflictError when it is disabled */
  resume(userId: string, id: string, options?: IfVersion): Promise<Endpoint>;
  /** Deliver again, whether it is paused or disabled. */
  enable(userId: string, id: string, options?: IfVersion): Promise<Endpoint>;
  /** Attempt nothing more: its events are kept as missed. If it is disabled already, time and reason stay. */
  disable(userId: string, id: string, options?: DisableOptions): Promise<Endpoint>;
  /** Delete an endpoint with what it missed. Repeating it changes nothing. */
  delete(userId: string, id: string, options?: IfVersion): Promise<void>;
}

/** The result of {@link Registry.put}. */
export interface Put {
  readonly endpoint: Endpoint;
  readonly secret?: string | undefined;
}

interface DisableOptions extends IfVersion {
  /** `manual` by default. */
  readonly reason?: DisabledReason | undefined;
}

interface Context extends SecretKeeping {
  readonly store: Store;
  readonly eventTypes: ReadonlySet<string>;
}

/** Open the registry of a shard. */
export function createRegistry(valkey: Valkey, options: RegistryOptions = {}): Registry {
  const { tag = "", maxEndpoints = DEFAULT_MAX_ENDPOINTS, run = (work) => work() } = options;
  const { eventTypes = DEFAULT_EVENTS, secretKeys = [], allowPlain = false } = options;
  const store = createStore(valkey, tag, maxEndpoints, run);
  const context = { store, eventTypes, secretKeys, allowPlain };
  const doing =
    (action: StateAction) =>
    async (userId: string, id: string, how: DisableOptions = {}) => {
      check(userId, id, how);
      return show(await store.changeState(userId, id, how.ifVersion, action, how.reason));
    };
  return {
    create: (...given) => create(context, ...given),
    put: (...given) => put(context, ...given),
    async get(userId, id) {
      check(userId, id);
      return showHealth(await store.readOne(userId, id));
    },
    async list(userId) {
      checkUserId(userId);
      const { value, ...read } = await store.readAll(userId);
      const all = value.map((one) => showHealth({ value: one, ...read }));
      return all.sort((a, b) => a.createdAt - b.createdAt || (a.id < b.id ? -1 : 1));
    },
    async explain(userId, eventType, { enqueuedAt } = {}) {
      checkUserId(userId);
      if (!eventTypes.has(eventType)) throw new UsageError(`expected ${describeEventTypes(eventTypes)}`);
      const { value, nowMs } = await store.readAll(userId);
      return explain(value, eventType, enqueuedAt ?? nowMs);
    },
    update: (...given) => update(context, ...given),
    rotate: (...given) => rotate(context, ...given),
    pause: doing("pause"),
    resume: doing("resume"),
    enable: doing("enable"),
    disable: doing("disable"),
    async delete(userId, id, { ifVersion } = {}) {
      check(userId, id, { ifVersion });
      await store.remove(userId, id, ifVersion);
    },
  };
}

function check(userId: unknown, id: unknown, { ifVersion }: IfVersion = {}): void {
  checkUserId(userId);
  checkEndpointId(id);
  checkVersion(ifVersion);
}

const showHealth = (found: FoundWithHealth<StoredEndpoint>): EndpointWithHealth => ({
  ...show(found),
  health: found.health.get(found.value.id) ?? NOTHING_KNOWN,
});

const show = ({ value, nowMs }: Found<StoredEndpoint>): Endpoint => showEndpoint(value, nowMs);

async function create(context: Context, userId: string, endpoint: NewEndpoint): Promise<WithSecret> {
  const { id = createId(), secret = createSecret(), ...given } = { ...endpoint };
  check(userId, id);
  const settings = parseSettings(given, context.eventTypes);
  const sealed = sealForStorage(secret, userId, context);
  const found = await context.store.write(userId, id, undefined, (present, nowMs) => {
    if (present !== undefined) throw new ConflictError(`the user has an endpoint ${id} already`);
    return buildDocument(
      storableWhole(settings, undefined, userId, context),
      [{ secret: sealed, createdAt: nowMs }],
      nowMs,
      nowMs,
    );
  });
  return { endpoint: show(found), secret };
}

async function put(
  context: Context,
  userId: string,
  id: string,
  endpoint: Omit<NewEndpoint, "id">,
  { ifVersion }: IfVersion = {},
): Promise<Put> {
  const { secret, ...given } = { ...endpoint };
  check(userId, id, { ifVersion });
  const settings = parseSettings(given, context.eventTypes);
  const generated = secret ?? createSecret();
  // An endpoint that exists needs no key unless it gets a secret.
  let sealed = secret === undefined ? undefined : sealForStorage(secret, userId, context);
  let isNew = false;
  const found = await context.store.write(userId, id, ifVersion, (present, nowMs) => {
    isNew = present === undefined || present.isDamaged === true;
    if (present === undefined || present.isDamaged) {
      sealed ??= sealForStorage(generated, userId, context);
      return buildDocument(
        storableWhole(settings, undefined, userId, context),
        [{ secret: sealed, createdAt: nowMs }],
        nowMs,
        nowMs,
      );
    }
    const { document } = present;
    const [current] = document.secrets;
    const isKept = secret === undefined || (current && isSameSecret(current.secret, secret, userId, context));
    const secrets = isKept
      ? document.secrets
      : rotateSecrets(document.secrets, sealed as string, nowMs, DEFAULT_GRACE_SECONDS * 1000);
    const next = buildDocument(storableWhole(settings, document, userId, context), secrets, document.createdAt, nowMs);
    return isSameDocument(next, document) ? document : next;
  });
  return { endpoint: show(found), ...(isNew && secret === undefined ? { secret: generated } : {}) };
}

async function update(
  context: Context,
  userId: string,
  id: string,
  given: Partial<EndpointSettings>,
  { ifVersion }: IfVersion = {},
): Promise<Endpoint> {
  check(userId, id, { ifVersion });
  const change = parseChange(given, context.eventTypes);
  const found = await context.store.write(userId, id, ifVersion, (present, nowMs) => {
    const { document } = readable(present, id);
    const changed = applyChange(document, storable(change, document, userId, context));
    const next = buildDocument(changed, document.secrets, document.createdAt, nowMs);
    return isSameDocument(next, document) ? document : next;
  });
  return show(found);
}

async function rotate(
  context: Context,
  userId: string,
  id: string,
  { ifVersion, graceSeconds = DEFAULT_GRACE_SECONDS, secret = createSecret() }: RotateOptions = {},
): Promise<WithSecret> {
  check(userId, id, { ifVersion });
  checkGrace(graceSeconds);
  const sealed = sealForStorage(secret, userId, context);
  const found = await context.store.write(userId, id, ifVersion, (present, nowMs) => {
    const { document } = readable(present, id);
    if (document.secrets[0]?.secret === sealed) return document; // this call again, after a lost reply
    const secrets = rotateSecrets(document.secrets, sealed, nowMs, graceSeconds * 1000);
    return buildDocument(document, secrets, document.createdAt, nowMs);
  });
  return { endpoint: show(found), secret };
}

/** `ep_` and 22 letters and digits: 128 random bits. */
function createId(): string {
  const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
  let bits = BigInt(`0x${randomBytes(ID_BYTES).toString("hex")}`);
  let text = "";
  for (let digit = 0; digit < ID_DIGITS; digit++) {
    text += DIGITS[Number(bits % 62n)];
    bits /= 62n;
  }
  return `ep_${text}`;
}

function readable(present: StoredEndpoint | undefined, id: string): StoredEndpoint {
  if (present === undefined) throw new NotFoundError(`the user has no endpoint ${id}`);
  if (!present.isDamaged) return present;
  throw new ConflictError(`what is stored of endpoint ${id} is damaged: put it anew, or delete it`);
}
