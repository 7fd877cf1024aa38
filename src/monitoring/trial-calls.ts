/**
 * The calls by which the rights of a Valkey user are tried: what each program does, command by command.
 */
import { queueKey } from "../queue/layout.ts";
import {
  attemptsKey,
  backlogPrefix,
  caughtKey,
  circuitsKey,
  endpointChangesKey,
  endpointIndexKey,
  endpointLogKey,
  endpointOffKey,
  endpointsKey,
  healthKey,
  holdsKey,
  logKey,
  missedDataKey,
  missedKey,
  noticesQueue,
  rateKey,
  rateLineKey,
  rateReleasedKey,
  responsesKey,
  straysKey,
} from "../queue/own-keys.ts";
import { tagOf } from "../queue/shards.ts";

/** A program, each of which needs different rights. */
export type Program = "worker" | "board";

/** A command with its arguments. */
export type Call = readonly [command: string, ...args: string[]];

/** Placeholder for the trial key: a string that expires by itself, or whatever the preceding calls made of it. */
export const KEY = "KEY";
/** Placeholder for a key that never exists. */
export const NONE = "NONE";
/** Tried first. If all of these are refused, the cause is the key, not the commands. */
export const FIRST: readonly Call[] = [
  ["SET", KEY, "0", "PX", "1000"],
  ["EXISTS", KEY],
  ["TYPE", KEY],
  ["GET", KEY],
];
/** Tried last: leaves nothing behind. */
export const LAST: Call = ["DEL", KEY];

/** What the scripts of all programs do to a key of each type. */
const HASH: readonly Call[] = [
  ["HSET", KEY, "a", "0"],
  ["HMSET", KEY, "a", "0"],
  ["HGET", KEY, "a"],
  ["HSTRLEN", KEY, "a"],
  ["HMGET", KEY, "a"],
  ["HGETALL", KEY],
  ["HEXISTS", KEY, "a"],
];
const LIST: readonly Call[] = [
  ["LPUSH", KEY, "a"],
  ["RPUSH", KEY, "a"],
  ["LLEN", KEY],
  ["LINDEX", KEY, "0"],
  ["LRANGE", KEY, "0", "1"],
  ["LPOS", KEY, "a"],
];
const SET: readonly Call[] = [
  ["SADD", KEY, "a"],
  ["SCARD", KEY],
  ["SMEMBERS", KEY],
];
const SORTED_SET: readonly Call[] = [
  ["ZADD", KEY, "0", "a"],
  ["ZCARD", KEY],
  ["ZCOUNT", KEY, "0", "0"],
  ["ZSCORE", KEY, "a"],
  ["ZRANGE", KEY, "0", "0"],
  ["ZRANGEBYSCORE", KEY, "0", "0"],
  ["ZREVRANGE", KEY, "0", "0"],
  ["ZREVRANGEBYSCORE", KEY, "0", "0"],
];

/** The commands that BullMQ's scripts and ours use on a queue's keys. In this order, all succeed and leave nothing behind. */
export const SCRIPTED: Readonly<Record<Program, readonly Call[]>> = {
  worker: [
    ["INCR", KEY],
    ["PTTL", KEY],
    ["PEXPIRE", KEY, "1000"],
    ["PERSIST", NONE],
    ["RENAME", KEY, KEY],
    LAST,
    ...HASH,
    ["HSETNX", KEY, "a", "0"],
    ["HINCRBY", KEY, "a", "1"],
    ["HDEL", KEY, "a"],
    LAST,
    ...LIST,
    ["RPOPLPUSH", KEY, KEY],
    ["RPOP", NONE],
    ["LREM", KEY, "1", "a"],
    ["LTRIM", KEY, "0", "1"],
    LAST,
    ...SET,
    ["SREM", KEY, "a"],
    LAST,
    ["XADD", KEY, "*", "a", "a"],
    ["XTRIM", KEY, "MAXLEN", "0"],
    LAST,
    ...SORTED_SET,
    ["ZRANK", KEY, "a"],
    ["ZREM", KEY, "b"],
    ["ZREMRANGEBYRANK", KEY, "1", "1"],
    ["ZREMRANGEBYSCORE", KEY, "1", "1"],
    ["ZPOPMIN", KEY],
    ["ZUNIONSTORE", KEY, "1", KEY],
    ["EXPIRE", KEY, "1"],
    ["TIME"],
  ],
  board: [
    ["INCR", KEY],
    ["PTTL", KEY],
    ["PEXPIRE", KEY, "1000"],
    ["PERSIST", NONE],
    ["RENAME", KEY, KEY],
    LAST,
    ...HASH,
    ["HSETNX", KEY, "a", "0"],
    ["HINCRBY", KEY, "a", "1"],
    ["HLEN", KEY],
    ["HSCAN", KEY, "0"],
    ["HDEL", KEY, "a"],
    LAST,
    ...LIST,
    ["LSET", KEY, "0", "a"],
    ["LREM", KEY, "0", "b"],
    ["LTRIM", KEY, "0", "1"],
    ["LPOP", KEY],
    ["RPOP", KEY],
    LAST,
    ...SET,
    ["SSCAN", KEY, "0"],
    ["SREM", KEY, "a"],
    LAST,
    ["XADD", KEY, "*", "a", "a"],
    LAST,
    ...SORTED_SET,
    ["ZREM", KEY, "a"],
    ["TIME"],
  ],
};

/** The pattern of all endpoints' keys of a kind. */
const ofAll = (keyOf: (userId: string, endpointId: string) => string): string => keyOf("*", "").slice(0, -1);

const noticesKey = (queue: string): string => queueKey(noticesQueue(tagOf(queue)));

/** Keys outside the queue's prefix, as the ACL pattern to grant and a call that tries one of them. */
export const otherKeys = (queue: string): readonly { readonly pattern: string; readonly call: Call }[] => [
  { pattern: logKey("*"), call: ["ZCARD", logKey("", tagOf(queue))] },
  { pattern: responsesKey("*"), call: ["ZCARD", responsesKey("", tagOf(queue))] },
  { pattern: circuitsKey(queue), call: ["ZCARD", circuitsKey(queue)] },
  { pattern: straysKey(queue), call: ["GET", straysKey(queue)] },
  { pattern: attemptsKey(queue, "*"), call: ["HMGET", attemptsKey(queue, 0), "made"] },
  { pattern: caughtKey(queue), call: ["LLEN", caughtKey(queue)] },
  { pattern: holdsKey(queue), call: ["HGET", holdsKey(queue), "version"] },
  { pattern: endpointsKey("*"), call: ["HGET", endpointsKey("", tagOf(queue)), "none"] },
  { pattern: ofAll(missedKey), call: ["ZCARD", missedKey("", "", tagOf(queue))] },
  { pattern: ofAll(missedDataKey), call: ["HGET", missedDataKey("", "", tagOf(queue)), "none"] },
  { pattern: healthKey("*"), call: ["HGET", healthKey("", tagOf(queue)), "none"] },
  { pattern: ofAll(endpointLogKey), call: ["LLEN", endpointLogKey("", "", tagOf(queue))] },
  { pattern: `${endpointChangesKey()}*`, call: ["LLEN", endpointChangesKey(tagOf(queue))] },
  { pattern: `${endpointIndexKey()}*`, call: ["ZCARD", endpointIndexKey(tagOf(queue))] },
  { pattern: `${endpointOffKey()}*`, call: ["ZCARD", endpointOffKey(tagOf(queue))] },
];
/** The same for keys that a worker writes. With `XX`, ZADD adds nothing to a key that does not exist. */
export const writtenKeys = (queue: string): ReturnType<typeof otherKeys> => [
  { pattern: logKey("*"), call: ["ZADD", logKey("", tagOf(queue)), "XX", "0", "a"] },
  { pattern: responsesKey("*"), call: ["ZADD", responsesKey("", tagOf(queue)), "XX", "0", "a"] },
  { pattern: `${backlogPrefix(queue)}*`, call: ["ZADD", backlogPrefix(queue), "XX", "0", "a"] },
  { pattern: holdsKey(queue), call: ["HDEL", holdsKey(queue), "none"] },
  { pattern: endpointsKey("*"), call: ["HDEL", endpointsKey("", tagOf(queue)), "none"] },
  { pattern: ofAll(missedKey), call: ["ZADD", missedKey("", "", tagOf(queue)), "XX", "0", "a"] },
  { pattern: ofAll(missedDataKey), call: ["HDEL", missedDataKey("", "", tagOf(queue)), "none"] },
  { pattern: healthKey("*"), call: ["HDEL", healthKey("", tagOf(queue)), "none"] },
  { pattern: ofAll(endpointLogKey), call: ["LREM", endpointLogKey("", "", tagOf(queue)), "1", "none"] },
  { pattern: `${endpointChangesKey()}*`, call: ["LREM", endpointChangesKey(tagOf(queue)), "1", "none"] },
  { pattern: `${endpointIndexKey()}*`, call: ["ZREM", endpointIndexKey(tagOf(queue)), "none"] },
  { pattern: `${endpointOffKey()}*`, call: ["ZREM", endpointOffKey(tagOf(queue)), "none"] },
  ...[rateKey, rateLineKey, rateReleasedKey].map(
    (keyOf) => ({ pattern: ofAll(keyOf), call: ["DEL", keyOf("", "", tagOf(queue))] }) as const,
  ),
  { pattern: `${noticesKey(queue)}:*`, call: ["LREM", `${noticesKey(queue)}:wait`, "1", "none"] },
];
