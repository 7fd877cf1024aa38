/**
 * Reads and changes what Valkey holds of users' endpoints, each change in one step.
 *
 * Key: `webhooks:endpoints:<tag><userId>`, a hash without expiry. Fields: `/version`, a random text that is new with each change of
 * any endpoint; for each endpoint `<id>`, its version, a space and its document as JSON, at most 16 KiB; `<id>/state`, see
 * endpoint.ts; `<id>/pauses`, the last 20 pauses that are over; `<id>/began`, when it was last enabled or got another URL. Of a
 * deleted endpoint its state stays for 30 days. About 700 bytes with two endpoints. What a change of the number of shards writes is described in homes/move.ts.
 */
import {
  endpointChangesKey,
  endpointIndexKey,
  endpointLogKey,
  endpointOffKey,
  endpointsKey,
  healthKey,
  missedDataKey,
  missedKey,
  rateKey,
  rateLineKey,
  rateReleasedKey,
} from "../queue/own-keys.ts";
import { UsageError } from "../runtime/usage-error.ts";
import type { Valkey } from "../valkey/connection.ts";
import { encodeDocument } from "./document.ts";
import {
  type DisabledReason,
  type EndpointDocument,
  pausesField,
  type StoredEndpoint,
  stateField,
} from "./endpoint.ts";
import { indexMember } from "./endpoint-index.ts";
import { type EndpointHealth, parseHealth } from "./health.ts";
import { ConflictError, EndpointsMoved, LimitError, NotFoundError } from "./refusals.ts";
import { CHANGE_STATE, DELETE, READ, WRITE } from "./registry-scripts.ts";
import { parseStored } from "./stored.ts";

const MAX_TRIES = 5; // to write, while others write at the same time

/** Runs what asks Valkey, and may do so again when the connection was lost. */
export type Run = <T>(work: () => Promise<T>) => Promise<T>;

/** What was found, or written. */
export interface Found<T> {
  readonly value: T;
  /** Valkey's time, epoch ms. */
  readonly nowMs: number;
}

/** What was found, with the health of all of the user's endpoints that were attempted, by their ids. */
export interface FoundWithHealth<T> extends Found<T> {
  readonly health: ReadonlyMap<string, EndpointHealth>;
}

/** What happens to an endpoint's state. `resume` ends a pause alone, `enable` whatever keeps it from delivering. */
export type StateAction = "pause" | "resume" | "enable" | "disable";

export interface Store {
  /** @throws NotFoundError */
  readOne(userId: string, id: string): Promise<FoundWithHealth<StoredEndpoint>>;
  readAll(userId: string): Promise<FoundWithHealth<StoredEndpoint[]>>;
  /**
   * Write what `decide` makes of the present endpoint. It is called again when another change came first, and returns the same
   * document to change nothing.
   *
   * @throws  what `decide` throws; NotFoundError and ConflictError on account of `ifVersion`; ConflictError when others keep
   *          changing the endpoint; LimitError when it would be one too many
   */
  write(userId: string, id: string, ifVersion: string | undefined, decide: Decide): Promise<Found<StoredEndpoint>>;
  /** @throws NotFoundError; ConflictError when it is disabled and the action does not enable it, or on account of `ifVersion` */
  changeState(
    userId: string,
    id: string,
    ifVersion: string | undefined,
    action: StateAction,
    reason?: DisabledReason,
  ): Promise<Found<StoredEndpoint>>;
  /** @throws NotFoundError, unless it was deleted before; ConflictError on account of `ifVersion` */
  remove(userId: string, id: string, ifVersion: string | undefined): Promise<void>;
}

export type Decide = (present: StoredEndpoint | undefined, nowMs: number) => EndpointDocument;

type Fields = readonly (string | null)[];
type Reply = [status: string, nowMs: number, fields: Fields];

type RunScript = (script: string, keys: string[], ...args: (string | number)[]) => Promise<unknown>;

function scriptRunner(valkey: Valkey): RunScript {
  return async (script, keys, ...args) => {
    const reply = (await valkey.eval(script, keys.length, ...keys, ...args)) as unknown[];
    if (reply[0] === "moved") throw new EndpointsMoved(String(reply[2]));
    return reply;
  };
}

/** Open the store of a shard with this tag. */
export function createStore(valkey: Valkey, tag: string, maxEndpoints: number, run: Run): Store {
  const keysOf = (userId: string) => [endpointsKey(userId, tag), healthKey(userId, tag)];
  const ofShard = [endpointIndexKey(tag), endpointOffKey(tag), endpointChangesKey(tag)];
  const changedKeysOf = (userId: string) => [...keysOf(userId), ...ofShard];
  const runScript = scriptRunner(valkey);
  const ask: Run = async (work) => {
    const settled = await run(() => settle(work));
    if ("refusal" in settled) throw settled.refusal;
    return settled.value;
  };

  async function find(userId: string, id: string): Promise<FoundWithHealth<StoredEndpoint | undefined>> {
    const read = await runScript(READ, keysOf(userId), id, stateField(id), pausesField(id));
    const [nowMs, fields, health] = read as [number, Fields, string[]];
    return { value: parseOne(id, fields), nowMs, health: parseHealth(fieldsOf(health)) };
  }

  return {
    readOne: (userId, id) =>
      ask(async () => {
        const { value, ...rest } = await find(userId, id);
        return { value: value ?? notFound(id), ...rest };
      }),
    readAll: (userId) =>
      ask(async () => {
        const [nowMs, fields, health] = (await runScript(READ, keysOf(userId))) as [number, string[], string[]];
        return { value: parseStored(fieldsOf(fields)), nowMs, health: parseHealth(fieldsOf(health)) };
      }),
    write(userId, id, ifVersion, decide) {
      const version = crypto.randomUUID(); // the same if the call has to be made again
      return ask(async () => {
        for (let tries = 0; tries < MAX_TRIES; tries++) {
          const { value: present, nowMs } = await find(userId, id);
          if (present?.version === version) return { value: present, nowMs };
          if (ifVersion !== undefined && (present ?? notFound(id)).version !== ifVersion) changed(id);
          const document = decide(present, nowMs);
          if (present !== undefined && document === present.document) return { value: present, nowMs };
          const isElsewhere = document.url !== present?.document.url ? 1 : 0;
          const args = [id, present?.version ?? "", version, encodeDocument(document), maxEndpoints, isElsewhere];
          const member = indexMember(userId, id);
          const [status, writtenMs, fields] = (await runScript(WRITE, changedKeysOf(userId), ...args, member)) as Reply;
          if (status === "written") return { value: parseOne(id, fields) as StoredEndpoint, nowMs: writtenMs };
          if (status === "full") throw new LimitError(`expected at most ${maxEndpoints} endpoints of a user`);
        }
        throw new ConflictError(`endpoint ${id} is being changed by others: try again`);
      });
    },
    changeState(userId, id, ifVersion = "", action, reason = "manual") {
      const args = [id, ifVersion, crypto.randomUUID(), action, reason, indexMember(userId, id)];
      return ask(async () => {
        const [status, nowMs, fields] = (await runScript(CHANGE_STATE, changedKeysOf(userId), ...args)) as Reply;
        if (status === "missing") notFound(id);
        if (status === "changed") changed(id);
        if (status === "disabled") throw new ConflictError(`endpoint ${id} is disabled: enable it first`);
        return { value: parseOne(id, fields) as StoredEndpoint, nowMs };
      });
    },
    remove(userId, id, ifVersion = "") {
      const kinds = [endpointLogKey, missedKey, missedDataKey, rateKey, rateLineKey, rateReleasedKey];
      const own = kinds.map((keyOf) => keyOf(userId, id, tag));
      const args = [id, ifVersion, crypto.randomUUID(), indexMember(userId, id)];
      return ask(async () => {
        const [status] = (await runScript(DELETE, [...changedKeysOf(userId), ...own], ...args)) as [string];
        if (status === "missing") notFound(id);
        if (status === "changed") changed(id);
      });
    },
  };
}

/** A hash, as scripts return it. */
function fieldsOf(flat: readonly string[]): Record<string, string> {
  const fields: Record<string, string> = {};
  for (let at = 0; at < flat.length; at += 2) fields[flat[at] as string] = flat[at + 1] as string;
  return fields;
}

type Settled<T> = { readonly value: T } | { readonly refusal: Error };

/** Return what we refuse as a value, so that `run` does not take it for trouble with the connection and try again. */
async function settle<T>(work: () => Promise<T>): Promise<Settled<T>> {
  try {
    return { value: await work() };
  } catch (error) {
    const ours = [UsageError, ConflictError, NotFoundError, LimitError, EndpointsMoved, SyntaxError];
    if (ours.some((kind) => error instanceof kind)) return { refusal: error as Error };
    throw error;
  }
}

function parseOne(id: string, [document, state, pauses]: Fields): StoredEndpoint | undefined {
  if (!document) return undefined;
  const fields = { [id]: document, [stateField(id)]: state, [pausesField(id)]: pauses };
  const present = Object.entries(fields).filter((field): field is [string, string] => typeof field[1] === "string");
  return parseStored(Object.fromEntries(present))[0];
}

function notFound(id: string): never {
  throw new NotFoundError(`the user has no endpoint ${id}`);
}

function changed(id: string): never {
  throw new ConflictError(`endpoint ${id} was changed meanwhile: read it again`);
}
