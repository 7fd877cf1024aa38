/**
 * `fluxhook.endpoints`: the registry of endpoints, as backends call it.
 */
import { checkUserId } from "../endpoints/document.ts";
import type { Endpoint, IfVersion, Registry } from "../endpoints/registry.ts";
import { checkChangeOptions, checkEndpointFields } from "./options.ts";

/**
 * The users' registered endpoints.
 *
 * Every call throws UsageError `INVALID_ARGUMENT` at once when something is invalid, NotFoundError `NOT_FOUND` when the user has no such
 * endpoint, and what `enqueue` throws when Valkey is away or refuses. Changes throw ConflictError `CONFLICT` when the endpoint does not have
 * the version of `ifVersion`, or when others keep changing it. After a ValkeyAwayError the change may have been made: read the
 * endpoint, or repeat the call. Repeated calls change nothing more, except those of `rotate`, and of `create` without an id.
 */
export interface Endpoints extends Omit<Registry, "disable"> {
  /** Attempt nothing more: its events are kept as missed. If it is disabled already, time and reason stay. */
  disable(userId: string, id: string, options?: IfVersion): Promise<Endpoint>;
}

const SETTINGS = ["url", "description", "events", "metadata"];
const PUT_FIELDS = [...SETTINGS, "secret"];
const CREATE_FIELDS = [...PUT_FIELDS, "id"];
const IF_VERSION = ["ifVersion"];
const ROTATE_OPTIONS = [...IF_VERSION, "graceSeconds", "secret"];

/**
 * Check what backends pass, and hand it to the registry of the user's shard.
 *
 * @param registryOf  takes a valid user id
 * @param call        runs a call, unless the package was closed
 */
export function createEndpoints(
  registryOf: (userId: string) => Registry,
  call: <T>(work: () => Promise<T>) => Promise<T>,
): Endpoints {
  const at = (userId: string): Registry => {
    checkUserId(userId);
    return registryOf(userId);
  };
  const changing =
    (name: "pause" | "resume" | "enable" | "disable") =>
    (userId: string, id: string, options: IfVersion = {}): Promise<Endpoint> =>
      call(async () => {
        checkChangeOptions(options, IF_VERSION);
        return await at(userId)[name](userId, id, options);
      });
  return {
    create: (userId, endpoint) =>
      call(async () => {
        checkEndpointFields(endpoint, CREATE_FIELDS);
        return await at(userId).create(userId, endpoint);
      }),
    put: (userId, id, endpoint, options = {}) =>
      call(async () => {
        checkEndpointFields(endpoint, PUT_FIELDS);
        checkChangeOptions(options, IF_VERSION);
        return await at(userId).put(userId, id, endpoint, options);
      }),
    get: (userId, id) => call(async () => await at(userId).get(userId, id)),
    list: (userId) => call(async () => await at(userId).list(userId)),
    update: (userId, id, change, options = {}) =>
      call(async () => {
        checkEndpointFields(change, SETTINGS);
        checkChangeOptions(options, IF_VERSION);
        return await at(userId).update(userId, id, change, options);
      }),
    rotate: (userId, id, options = {}) =>
      call(async () => {
        checkChangeOptions(options, ROTATE_OPTIONS);
        return await at(userId).rotate(userId, id, options);
      }),
    pause: changing("pause"),
    resume: changing("resume"),
    enable: changing("enable"),
    disable: changing("disable"),
    delete: (userId, id, options = {}) =>
      call(async () => {
        checkChangeOptions(options, IF_VERSION);
        await at(userId).delete(userId, id, options);
      }),
  };
}
