/**
 * Checks whether the Valkey user has the rights that a process needs, by trying each command in a script that leaves nothing behind.
 */
import { randomUUID } from "node:crypto";
import { KEY_TYPES, keysOf, queueKey } from "../queue/layout.ts";
import { isAnswer, type Valkey } from "../valkey/connection.ts";
import { UNTOLD, type ValkeyFacts } from "../valkey/facts.ts";
import { codeOf, refusalOf } from "../valkey/refusals.ts";
import { FIRST, KEY, LAST, NONE, otherKeys, type Program, SCRIPTED, writtenKeys } from "./trial-calls.ts";

export type { Program };

/**
 * ARGV: the calls, as JSON; an unused key; the keys whose types to return, as JSON; how many of the calls are {@link FIRST}. Makes
 * all calls except those that would create a key that cannot be removed. Returns the errors as `<position>:<error>`, and the types.
 *
 * The first call is a SET, since Valkey checks memory, replicas and its role only before a script's first write: that call shows
 * whether writes are refused altogether.
 */
const TRY = `
local calls, errors, types, firsts = cjson.decode(ARGV[1]), {}, {}, tonumber(ARGV[4])
local makes = { INCR = 1, HSET = 1, HMSET = 1, HSETNX = 1, HINCRBY = 1, LPUSH = 1, RPUSH = 1, LSET = 1, SADD = 1, XADD = 1, ZADD = 1, RENAME = 1 }
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
 * Find the rights that a program lacks, by trying them.
 *
 * If SET is refused, no other command that creates a key is tried. If DEL is refused, the trial key expires within a second.
 *
 * @param isQuick  check only that the queue's keys can be written and have the right types
 * @returns one sentence per missing right, with what to grant; empty when none is missing
 * @throws  Valkey's error if it is no refusal, or the connection's error
 */
export async function findLacks(valkey: Valkey, queue: string, program: Program, isQuick = false): Promise<string[]> {
  const prefix = queueKey(queue);
  const key = `${prefix}:trial:${randomUUID()}`;
  const written = program === "worker" ? writtenKeys(queue) : [];
  const others = isQuick ? [] : [...otherKeys(queue), ...written];
  const calls = [...FIRST, ...(isQuick ? [] : SCRIPTED[program]), LAST];
  const queueKeys = keysOf({ name: queue });
  const names = Object.keys(KEY_TYPES) as (keyof typeof KEY_TYPES)[];
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
  const isUntried = mayUseKeys && refused.has(0); // commands that create keys
  const patterns = others.flatMap(({ pattern, call: [command] }, index) =>
    refused.has(calls.length + index) && !commands.has(command) && !(isUntried && command === "ZADD") ? [pattern] : [],
  );
  return [
    ...[...commands].map(mayNotRun),
    ...[...(mayUseKeys ? [] : [`${prefix}:*`]), ...new Set(patterns)].map(mayNotUse),
    ...names.flatMap((name, index) => describeType(queueKeys[name], types[index], KEY_TYPES[name])),
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
  return [`The key ${key} is a ${type}, but the queue needs a ${expected} there: rename or delete it`];
}

const TRANSACTION = "MULTI, EXEC";

/** Try the commands that are sent on their own, outside of scripts. */
async function tryCommands(valkey: Valkey, key: string, program: Program, keys: string): Promise<string[]> {
  const script = new Bun.CryptoHasher("sha1").update(TRY).digest("hex");
  const shared: Record<string, () => Promise<unknown>> = {
    PING: () => valkey.ping(),
    EVALSHA: () => valkey.evalsha(script, 0, JSON.stringify([["EXISTS", key]]), key, keys, 0),
    [TRANSACTION]: () => valkey.multi().exists(key).exec(),
  };
  const worker: typeof shared = {
    BZPOPMIN: () => valkey.bzpopmin(key, 0.001),
  };
  const both: typeof shared = {
    BLMOVE: () => valkey.blmove(key, key, "RIGHT", "LEFT", 0.001),
    SCAN: () => valkey.scan("0", "MATCH", key, "COUNT", 1),
  };
  const tries = Object.entries(program === "worker" ? { ...shared, ...both, ...worker } : { ...shared, ...both });
  const answers = await Promise.all(tries.map(async ([name, run]) => [name, await answerOf(run())] as const));
  return answers.flatMap(([name, answer]) => (answer instanceof Error ? [describe(name, answer)] : []));
}

/** The optional rights that are missing, one sentence per right, with what to grant. The process works without them. */
export async function findMissed(valkey: Valkey, { evictionPolicy }: ValkeyFacts): Promise<string[]> {
  const clients = await answerOf(valkey.client("LIST") as Promise<unknown>);
  return [
    ...(evictionPolicy === UNTOLD
      ? ["The Valkey user may not run INFO, so eviction, persistence and memory are unknown: grant +info"]
      : []),
    ...(clients instanceof Error
      ? ["The Valkey user may not run CLIENT LIST, so the number of workers is unknown: grant +client|list"]
      : []),
  ];
}

/** Explain a refusal to the operator who has to resolve it. */
function describe(command: string, error: Error): string {
  if (refusalOf(error) === "later") return describeRefusal(error.message);
  if (command === TRANSACTION) return "The Valkey user may not run MULTI and EXEC: grant +multi +exec";
  return codeOf(error) === "NOPERM" ? mayNotRun(command) : describeRefusal(error.message);
}

/** A readable form of Valkey's error reply. */
export function describeRefusal(answer: string): string {
  if (answer.startsWith("LOADING ")) return "Valkey is loading";
  return `Valkey refuses: ${answer.replace(/ script: [0-9a-f]{40}.*$/, "").replace(/\.$/, "")}`;
}

/** A reply, or Valkey's error reply as a value. Throws other errors. */
async function answerOf<T>(reply: Promise<T>): Promise<T | Error> {
  try {
    return await reply;
  } catch (error) {
    if (!isAnswer(error as Error)) throw error;
    return error as Error;
  }
}
