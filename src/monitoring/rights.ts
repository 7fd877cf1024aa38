/**
 * Whether Valkey lets a process do what it needs: tried, command by command, in a script that leaves nothing behind.
 */
import { randomUUID } from "node:crypto";
import { keysOf, queueKey } from "../queue/layout.ts";
import { isAnswer, type Valkey } from "../valkey/connection.ts";
import { UNTOLD, type ValkeyFacts } from "../valkey/facts.ts";
import { codeOf, refusalOf } from "../valkey/refusals.ts";

/** A program that needs rights, each its own. */
export type Program = "worker" | "board";

type Call = readonly [command: string, ...args: string[]];

/** Stands for the key that is tried: a string that ends by itself, or whatever the calls before it made of it. */
const KEY = "KEY";
/** Stands for a key that is never there. */
const NONE = "NONE";
/** The first ones: where all of them are refused, it is the key that may not be used. */
const FIRST: readonly Call[] = [
  ["SET", KEY, "0", "PX", "1000"],
  ["EXISTS", KEY],
  ["TYPE", KEY],
  ["GET", KEY],
];
const LAST: Call = ["DEL", KEY];

/** What scripts do to a queue's keys, BullMQ's and ours. In this order all of it succeeds, and nothing is left. */
const SCRIPTED: Readonly<Record<Program, readonly Call[]>> = {
  worker: [
    ["INCR", KEY],
    ["PTTL", KEY],
    ["PEXPIRE", KEY, "1000"],
    ["RENAME", KEY, KEY],
    LAST,
    ["HSET", KEY, "a", "0"],
    ["HMSET", KEY, "a", "0"],
    ["HGET", KEY, "a"],
    ["HSTRLEN", KEY, "a"],
    ["HMGET", KEY, "a"],
    ["HGETALL", KEY],
    ["HEXISTS", KEY, "a"],
    ["HINCRBY", KEY, "a", "1"],
    ["HDEL", KEY, "a"],
    LAST,
    ["LPUSH", KEY, "a"],
    ["RPUSH", KEY, "a"],
    ["LLEN", KEY],
    ["LINDEX", KEY, "0"],
    ["LRANGE", KEY, "0", "1"],
    ["LPOS", KEY, "a"],
    ["RPOPLPUSH", KEY, KEY],
    ["RPOP", NONE],
    ["LREM", KEY, "1", "a"],
    ["LTRIM", KEY, "0", "1"],
    LAST,
    ["SADD", KEY, "a"],
    ["SCARD", KEY],
    ["SMEMBERS", KEY],
    ["SREM", KEY, "a"],
    LAST,
    ["XADD", KEY, "*", "a", "a"],
    ["XTRIM", KEY, "MAXLEN", "0"],
    LAST,
    ["ZADD", KEY, "0", "a"],
    ["ZCARD", KEY],
    ["ZCOUNT", KEY, "0", "0"],
    ["ZSCORE", KEY, "a"],
    ["ZRANK", KEY, "a"],
    ["ZRANGE", KEY, "0", "0"],
    ["ZRANGEBYSCORE", KEY, "0", "0"],
    ["ZREVRANGE", KEY, "0", "0"],
    ["ZREVRANGEBYSCORE", KEY, "0", "0"],
    ["ZREM", KEY, "b"],
    ["ZREMRANGEBYRANK", KEY, "1", "1"],
    ["ZREMRANGEBYSCORE", KEY, "1", "1"],
    ["ZPOPMIN", KEY],
    ["EXPIRE", KEY, "1"],
    ["TIME"],
  ],
  board: [
    ["INCR", KEY],
    ["PTTL", KEY],
    ["PERSIST", NONE],
    ["RENAME", KEY, KEY],
    LAST,
    ["HSET", KEY, "a", "0"],
    ["HMSET", KEY, "a", "0"],
    ["HGET", KEY, "a"],
    ["HSTRLEN", KEY, "a"],
    ["HMGET", KEY, "a"],
    ["HGETALL", KEY],
    ["HEXISTS", KEY, "a"],
    ["HLEN", KEY],
    ["HSCAN", KEY, "0"],
    ["HDEL", KEY, "a"],
    LAST,
    ["LPUSH", KEY, "a"],
    ["RPUSH", KEY, "a"],
    ["LLEN", KEY],
    ["LINDEX", KEY, "0"],
    ["LRANGE", KEY, "0", "1"],
    ["LPOS", KEY, "a"],
    ["LSET", KEY, "0", "a"],
    ["LREM", KEY, "0", "b"],
    ["LTRIM", KEY, "0", "1"],
    ["LPOP", KEY],
    ["RPOP", KEY],
    LAST,
    ["SADD", KEY, "a"],
    ["SCARD", KEY],
    ["SMEMBERS", KEY],
    ["SSCAN", KEY, "0"],
    ["SREM", KEY, "a"],
    LAST,
    ["XADD", KEY, "*", "a", "a"],
    LAST,
    ["ZADD", KEY, "0", "a"],
    ["ZCARD", KEY],
    ["ZCOUNT", KEY, "0", "0"],
    ["ZSCORE", KEY, "a"],
    ["ZRANGE", KEY, "0", "0"],
    ["ZRANGEBYSCORE", KEY, "0", "0"],
    ["ZREVRANGE", KEY, "0", "0"],
    ["ZREVRANGEBYSCORE", KEY, "0", "0"],
    ["ZREM", KEY, "a"],
  ],
};

/** Keys beside the queue's, as `<pattern> <a key of it>`, and whether they are written. */
const otherKeys = (queue: string): readonly { readonly pattern: string; readonly call: Call }[] => [
  { pattern: "webhooks:log:*", call: ["ZCARD", "webhooks:log:"] },
  { pattern: `webhooks:circuits:${queue}`, call: ["ZCARD", `webhooks:circuits:${queue}`] },
  { pattern: `webhooks:strays:${queue}`, call: ["GET", `webhooks:strays:${queue}`] },
  { pattern: `webhooks:paused:${queue}`, call: ["LLEN", `webhooks:paused:${queue}`] },
];
/** Those that a worker writes; `XX` adds nothing where there is nothing. */
const writtenKeys = (queue: string): ReturnType<typeof otherKeys> => [
  { pattern: "webhooks:log:*", call: ["ZADD", "webhooks:log:", "XX", "0", "a"] },
  { pattern: `webhooks:backlog:${queue}:*`, call: ["ZADD", `webhooks:backlog:${queue}:`, "XX", "0", "a"] },
];

/** What a queue's keys are, by their names. */
const TYPES: Readonly<Partial<Record<keyof ReturnType<typeof keysOf>, string>>> = {
  wait: "list",
  active: "list",
  prioritized: "zset",
  delayed: "zset",
  completed: "zset",
  failed: "zset",
  marker: "zset",
  meta: "hash",
  events: "stream",
};

/**
 * ARGV: the calls, as JSON; a key that nobody uses; the keys whose types are asked, as JSON; how many calls are the first ones.
 * Calls all, but those that would make a key that cannot be removed. Returns the errors as `<position>:<error>`, and the types.
 *
 * The first call is a SET, with which Valkey shows what it refuses now: it looks at memory, replicas and role before a
 * script's first write only.
 */
const TRY = `
local calls, errors, types, firsts = cjson.decode(ARGV[1]), {}, {}, tonumber(ARGV[4])
local makes = { INCR = 1, HSET = 1, HMSET = 1, HINCRBY = 1, LPUSH = 1, RPUSH = 1, LSET = 1, SADD = 1, XADD = 1, ZADD = 1, RENAME = 1 }
local hasKey, mayUseKey = true, true
for i, call in ipairs(calls) do
  local isOurs = false
  for j, word in ipairs(call) do
    if word == "${KEY}" or word == "${NONE}" then isOurs = true end
    if word == "${KEY}" then call[j] = ARGV[2] elseif word == "${NONE}" then call[j] = ARGV[2] .. ":none" end
  end
  if not isOurs or (mayUseKey and (hasKey or not makes[call[1]])) then
    local reply = redis.pcall(unpack(call))
    local error = type(reply) == "table" and reply.err
    if error and not string.find(error, "^%-?WRONGTYPE ") then
      errors[#errors + 1] = i .. ":" .. error
      if i == 1 then hasKey = false end
      if i == 1 and not string.find(error, "^%-?ERR ") and not string.find(error, "^%-?NOPERM ") then return {errors, {}} end
    end
  end
  if i == firsts and #errors == firsts then mayUseKey = false end
end
for i, key in ipairs(cjson.decode(ARGV[3])) do types[i] = hasKey and redis.pcall("TYPE", key).ok or "none" end
return {errors, types}`;

/**
 * Try what a program needs of its Valkey.
 *
 * While SET is refused nothing else that makes a key is tried, and where DEL is, what was made ends by itself within a second.
 *
 * @param isQuick  only whether the queue's keys can be written, and are what they should be
 * @returns what is lacking, a sentence each, with what to grant; empty when nothing is
 * @throws  what Valkey answers with where that is no refusal, or what became of the connection
 */
export async function findLacks(valkey: Valkey, queue: string, program: Program, isQuick = false): Promise<string[]> {
  const prefix = queueKey(queue);
  const key = `${prefix}:trial:${randomUUID()}`;
  const written = program === "worker" ? writtenKeys(queue) : [];
  const others = isQuick ? [] : [...otherKeys(queue), ...written];
  const calls = [...FIRST, ...(isQuick ? [] : SCRIPTED[program]), LAST];
  const queueKeys = keysOf({ name: queue });
  const names = Object.keys(TYPES) as (keyof typeof TYPES)[];
  const keys = JSON.stringify(names.map((name) => queueKeys[name]));
  const all = JSON.stringify([...calls, ...others.map(({ call }) => call)]);
  const tried = await answerOf(valkey.eval(TRY, 0, all, key, keys, FIRST.length) as Promise<[string[], string[]]>);
  if (tried instanceof Error) return [describe("EVAL", tried)];
  const [errors, types] = tried;
  const refused = new Map(errors.map(parseError));
  const passing = [...refused.values()].find((error) => refusalOf(error) === "later");
  if (passing !== undefined) return [describeRefusal(passing.message)];
  const mayUseKeys = FIRST.some((_, index) => !refused.has(index));
  const commands = new Set(calls.flatMap(([command], index) => (mayUseKeys && refused.has(index) ? [command] : [])));
  const isUntried = mayUseKeys && refused.has(0); // what makes a key
  const patterns = others.flatMap(({ pattern, call: [command] }, index) =>
    refused.has(calls.length + index) && !commands.has(command) && !(isUntried && command === "ZADD") ? [pattern] : [],
  );
  return [
    ...[...commands].map(mayNotRun),
    ...[...(mayUseKeys ? [] : [`${prefix}:*`]), ...new Set(patterns)].map(mayNotUse),
    ...names.flatMap((name, index) => describeType(queueKeys[name], types[index], TYPES[name])),
    ...(isQuick ? [] : await tryCommands(valkey, key, program, keys)),
  ];
}

/** `<position>:<error>`, the position 1-based. */
function parseError(text: string): [index: number, error: Error] {
  const [position, ...words] = text.split(":");
  return [Number(position) - 1, new Error(words.join(":").replace(/^-/, ""))];
}

const mayNotRun = (command: string): string =>
  `The Valkey user may not run ${command}: grant +${command.toLowerCase().replace(" ", "|")}`;

const mayNotUse = (pattern: string): string => `The Valkey user may not use the keys ${pattern}: grant ~${pattern}`;

function describeType(key: string, type = "none", expected = "none"): string[] {
  if (type === "none" || type === expected) return [];
  return [`The key ${key} is a ${type}, where the queue has a ${expected}: rename or delete it`];
}

const TRANSACTION = "MULTI, EXEC";

/** What is sent by itself, outside of scripts. */
async function tryCommands(valkey: Valkey, key: string, program: Program, keys: string): Promise<string[]> {
  const script = new Bun.CryptoHasher("sha1").update(TRY).digest("hex");
  const shared: Record<string, () => Promise<unknown>> = {
    PING: () => valkey.ping(),
    EVALSHA: () => valkey.evalsha(script, 0, JSON.stringify([["EXISTS", key]]), key, keys, 0),
    [TRANSACTION]: () => valkey.multi().exists(key).exec(),
  };
  const worker: typeof shared = {
    BZPOPMIN: () => valkey.bzpopmin(key, 0.001),
    SCAN: () => valkey.scan("0", "MATCH", key, "COUNT", 1),
  };
  const both: typeof shared = { BLMOVE: () => valkey.blmove(key, key, "RIGHT", "LEFT", 0.001) };
  const tries = Object.entries(program === "worker" ? { ...shared, ...both, ...worker } : { ...shared, ...both });
  const answers = await Promise.all(tries.map(async ([name, run]) => [name, await answerOf(run())] as const));
  return answers.flatMap(([name, answer]) => (answer instanceof Error ? [describe(name, answer)] : []));
}

/** What a process does without when it may not, a sentence each, with what to grant. */
export async function findMissed(valkey: Valkey, { evictionPolicy }: ValkeyFacts): Promise<string[]> {
  const clients = await answerOf(valkey.client("LIST") as Promise<unknown>);
  return [
    ...(evictionPolicy === UNTOLD
      ? ["The Valkey user may not run INFO, so eviction, persistence and memory are not known: grant +info"]
      : []),
    ...(clients instanceof Error
      ? ["The Valkey user may not run CLIENT LIST, so nobody knows how many workers there are: grant +client|list"]
      : []),
  ];
}

/** What a refusal means for whoever has to end it. */
function describe(command: string, error: Error): string {
  if (refusalOf(error) === "later") return describeRefusal(error.message);
  if (command === TRANSACTION) return "The Valkey user may not run MULTI and EXEC: grant +multi +exec";
  return codeOf(error) === "NOPERM" ? mayNotRun(command) : describeRefusal(error.message);
}

/** What Valkey answered, for people. */
export function describeRefusal(answer: string): string {
  if (answer.startsWith("LOADING ")) return "Valkey is loading";
  return `Valkey refuses: ${answer.replace(/ script: [0-9a-f]{40}.*$/, "").replace(/\.$/, "")}`;
}

/** A reply, or the error that Valkey answered with. */
async function answerOf<T>(reply: Promise<T>): Promise<T | Error> {
  try {
    return await reply;
  } catch (error) {
    if (!isAnswer(error as Error)) throw error;
    return error as Error;
  }
}
