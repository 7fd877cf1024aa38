/**
 * Protects BullMQ's connection to a queue from malformed stored jobs.
 */
import type { RedisClient, RedisQueueBackend } from "bullmq";
import { PICK_UPS, type PickUp } from "./pick-ups.ts";

/**
 * BullMQ parses parts of a job's hash before our code sees the job; an error there, or later in its scripts, would leave the
 * job active, stalling forever. This removes unreadable fields first, both here and in Valkey.
 */
export function tolerant(backend: RedisQueueBackend): RedisQueueBackend {
  const execute = backend.execCommand.bind(backend);
  backend.execCommand = (client, command, args) => {
    const replied = execute(client, command, args);
    if (!PICK_UPS.has(command)) return replied;
    return replied.then((reply: PickUp) => {
      const [hash, id] = Array.isArray(reply) ? reply : [];
      for (let i = 0; hash && i < hash.length; i += 2) {
        if (isReadable(hash[i] as string, hash[i + 1] as string)) continue;
        (client as RedisClient).hdel(backend.toKey(id as string), hash[i] as string).catch(() => {});
        hash[i + 1] = "";
      }
      return reply;
    });
  };
  return backend;
}

function isReadable(field: string, text: string): boolean {
  if (field === "parentKey") return /.:./.test(text);
  if (text === "" || (field !== "opts" && field !== "progress" && field !== "parent")) return true;
  try {
    const value: unknown = JSON.parse(text);
    if (field === "progress") return true;
    if (typeof value !== "object" || value === null) return false;
    const { id, queueKey } = value as { id?: unknown; queueKey?: unknown };
    return field === "opts" || (typeof id === "string" && typeof queueKey === "string");
  } catch {
    return false;
  }
}
