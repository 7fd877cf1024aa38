/**
 * `fluxhook.endpoints`: the registry of endpoints, as backends call it.
 */
import type { MoveHomeOptions } from "../homes/homes.ts";
import type { Attempt } from "../log/attempt.ts";
import type { MissedPage, MissedQuery } from "../missed/missed.ts";
import type { Replayed } from "../missed/replay.ts";
import { checkUserId, SETTINGS } from "../registry/document.ts";
import type { Endpoint, IfVersion, Registry } from "../registry/registry.ts";
import {
  checkChangeOptions,
  checkEnableOptions,
  checkEndpointFields,
  checkExplainOptions,
  checkMissedQuery,
  checkReplayOptions,
} from "./options.ts";
import type { ShardClient } from "./shard-client.ts";

/** What to replay. Times are of the events, as a Date or epoch ms. */
export interface ReplayOptions {
  /** From the oldest by default. */
  readonly since?: Date | number | undefined;
  /** Up to the newest by default. */
  readonly until?: Date | number | undefined;
  /** Change nothing, and count what would be replayed. */
  readonly dryRun?: boolean | undefined;
}

/** How to enable an endpoint. */
export interface EnableOptions extends IfVersion {
  /** Replay what it missed: all with true, or since a time. Not by default. */
  readonly replay?: boolean | Date | number | undefined;
}

/** An endpoint that was enabled. */
export interface Enabled extends Endpoint {
  /** What was replayed, if that was asked for. */
  readonly replay?: Replayed;
}

/**
 * The users' registered endpoints.
 *
 * Every call throws UsageError `INVALID_ARGUMENT` at once when something is invalid, NotFoundError `NOT_FOUND` when the user has no such
 * endpoint, and what `enqueue` throws when Valkey is away or refuses. Changes throw ConflictError `CONFLICT` when the endpoint does not have
 * the version of `ifVersion`, or when others keep changing it. After a ValkeyAwayError the change may have been made: read the
 * endpoint, or repeat the call. Repeated calls change nothing more, except those of `rotate`, and of `create` without an id.
 */
export interface Endpoints extends Omit<Registry, "enable" | "disable"> {
  /**
   * Deliver again, whether it is paused or disabled, and with `replay` what it missed meanwhile, too. Repeating the call after an
   * error resumes the replay.
   */
  enable(userId: string, id: string, options?: EnableOptions): Promise<Enabled>;
  /** Attempt nothing more: its events are kept as missed. If it is disabled already, time and reason stay. */
  disable(userId: string, id: string, options?: IfVersion): Promise<Endpoint>;
  /** Its last 25 attempts, newest first, as in its user's log, but of this endpoint alone. Kept as long as those. */
  attempts(userId: string, id: string): Promise<Attempt[]>;
  /** What it missed while it was disabled, and what failed for good: how much, and a page of the events, newest first. */
  missed(userId: string, id: string, query?: MissedQuery): Promise<MissedPage>;
  /**
   * Deliver what it missed, oldest first, with the bodies as they were and a whole retry schedule. Repeating the call after an error
   * resumes it: no event is replayed twice. Any number of events, within `timeoutMs` for each 100.
   *
   * @throws  ConflictError `CONFLICT` when the endpoint is disabled
   */
  replay(userId: string, id: string, options?: ReplayOptions): Promise<Replayed>;
}

const PUT_FIELDS = [...SETTINGS, "secret"];
const CREATE_FIELDS = [...PUT_FIELDS, "id"];
const IF_VERSION = ["ifVersion"];
const ROTATE_OPTIONS = [...IF_VERSION, "graceSeconds", "secret"];

type Home = Pick<ShardClient, "registry" | "attempts" | "missed" | "replay">;
type FindHome = (userId: string, options?: MoveHomeOptions) => Promise<Home>;
type Call = <T>(work: () => Promise<T>) => Promise<T>;

/**
 * Check what backends pass, and hand it to the registry of the user's shard.
 *
 * @param homeOf   finds the shard that serves a user, whose id is valid, see src/homes/homes.ts
 * @param call     runs a call, unless the package was closed
 */
export function createEndpoints(homeOf: FindHome, call: Call): Endpoints {
  const home: FindHome = async (userId, options) => {
    checkUserId(userId);
    return await homeOf(userId, options);
  };
  const at = async (userId: string): Promise<Registry> => (await home(userId)).registry;
  const changing =
    (name: "pause" | "resume" | "disable") =>
    (userId: string, id: string, options: IfVersion = {}): Promise<Endpoint> =>
      call(async () => {
        checkChangeOptions(options, IF_VERSION);
        return await (await at(userId))[name](userId, id, options);
      });
  return {
    create: (userId, endpoint) =>
      call(async () => {
        checkEndpointFields(endpoint, CREATE_FIELDS);
        return await (await at(userId)).create(userId, endpoint);
      }),
    put: (userId, id, endpoint, options = {}) =>
      call(async () => {
        checkEndpointFields(endpoint, PUT_FIELDS);
        checkChangeOptions(options, IF_VERSION);
        return await (await at(userId)).put(userId, id, endpoint, options);
      }),
    get: (userId, id) => call(async () => await (await at(userId)).get(userId, id)),
    list: (userId) => call(async () => await (await at(userId)).list(userId)),
    explain: (userId, eventType, options = {}) =>
      call(async () => {
        checkExplainOptions(options);
        const { enqueuedAt } = options;
        return await (await at(userId)).explain(userId, eventType, enqueuedAt === undefined ? {} : { enqueuedAt });
      }),
    update: (userId, id, change, options = {}) =>
      call(async () => {
        checkEndpointFields(change, SETTINGS);
        checkChangeOptions(options, IF_VERSION);
        return await (await at(userId)).update(userId, id, change, options);
      }),
    rotate: (userId, id, options = {}) =>
      call(async () => {
        checkChangeOptions(options, ROTATE_OPTIONS);
        return await (await at(userId)).rotate(userId, id, options);
      }),
    pause: changing("pause"),
    resume: changing("resume"),
    disable: changing("disable"),
    ...createReplays(home, call),
    delete: (userId, id, options = {}) =>
      call(async () => {
        checkChangeOptions(options, IF_VERSION);
        await (await at(userId)).delete(userId, id, options);
      }),
  };
}

function createReplays(home: FindHome, call: Call): Pick<Endpoints, "enable" | "attempts" | "missed" | "replay"> {
  async function replay(userId: string, id: string, { since, until, dryRun }: ReplayOptions): Promise<Replayed> {
    const { replay: replayAt } = await home(userId, { all: true });
    return await replayAt(userId, id, { since: epochMs(since), until: epochMs(until), dryRun });
  }
  return {
    enable: (userId, id, options = {}) =>
      call(async () => {
        checkEnableOptions(options);
        const { ifVersion, replay: wanted = false } = options;
        const endpoint = await (await home(userId)).registry.enable(userId, id, { ifVersion });
        if (wanted === false) return endpoint;
        return { ...endpoint, replay: await replay(userId, id, wanted === true ? {} : { since: wanted }) };
      }),
    attempts: (userId, id) =>
      call(async () => {
        const { registry, attempts } = await home(userId, { all: true });
        await registry.get(userId, id); // throws when there is none
        return await attempts(userId, id);
      }),
    missed: (userId, id, query = {}) =>
      call(async () => {
        checkMissedQuery(query);
        const { registry, missed } = await home(userId, { all: true });
        await registry.get(userId, id); // throws when there is none
        return await missed(userId, id, query);
      }),
    replay: (userId, id, options = {}) =>
      call(async () => {
        checkReplayOptions(options);
        return await replay(userId, id, options);
      }),
  };
}

const epochMs = (time: Date | number | undefined): number | undefined =>
  time === undefined ? undefined : Number(time);
