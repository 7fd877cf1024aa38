/**
 * The log of each user's last attempts, in Valkey.
 */
import { logKey, responsesKey } from "../queue/own-keys.ts";
import { perTurn } from "../runtime/per-tick.ts";
import type { Valkey } from "../valkey/connection.ts";
import { type Attempt, type KeptResponse, MAX_LOG_AGE_MS, MAX_LOG_SIZE } from "./attempt.ts";
import { type AttemptQuery, selectAttempts } from "./attempt-query.ts";
import { scriptFor, WITH_RESPONSES, WITHOUT_RESPONSES } from "./attempt-scripts.ts";

export type { Attempt, KeptResponse };

/** How much of each user's log is kept. Named like the settings. */
export interface LogOptions {
  /** Attempts; 10 by default. */
  readonly logSize?: number;
  /** Their maximum age, ms; 7 days by default. */
  readonly logAgeMs?: number;
  /** Whether responses become part of the attempts, for backends in any language to show. Not by default. */
  readonly showResponse?: boolean;
  /** The shard's, see queue/shards.ts; none by default. */
  readonly tag?: string;
  /** What else becomes of attempts, when they are recorded. */
  readonly endpoints?: EndpointRecords | undefined;
}

/** An attempt of a registered endpoint, as it was recorded. */
export interface RecordedAttempt {
  readonly userId: string;
  readonly attempt: Attempt;
  /** What `record` returned for it. */
  readonly reply: unknown;
}

/** Counts the attempts of registered endpoints in the script that records them; src/streaks/streaks.ts has it. */
export interface EndpointRecords {
  /**
   * Defines `record(user, id, result, member, score, job)`, which the script calls for each; nil if nothing follows. Sees `now`, epoch ms, and how long logs are kept in `ARGV[2]`, ms. `score` is the attempt's in its user's log; false when it was there before.
   */
  readonly script: string;
  /** The argument `result`. */
  resultOf(attempt: Attempt): string;
  /** The argument `job`: its id in the shard. */
  jobOf(attempt: Attempt): string;
  /** Told of every attempt, also of endpoints that are not registered. */
  observed(attempt: Attempt): void;
  /** Whether what `recorded` does comes ahead of the acknowledgement. */
  isUrgent(attempt: Attempt): boolean;
  /** Draw the conclusions from those for which `record` returned something. Never rejects. */
  recorded(attempts: readonly RecordedAttempt[], nowMs: number): Promise<void>;
}

const DEFAULT_SIZE = 10;
const DEFAULT_AGE_MS = 7 * 24 * 60 * 60 * 1000; // 7 days

/** For readers without the workers' settings: all that is kept, as much as the settings allow. */
export const ALL_KEPT: LogOptions = { logSize: MAX_LOG_SIZE, logAgeMs: MAX_LOG_AGE_MS };

type RegisteredAttempt = Attempt & { readonly endpoint_id: string };

/** An attempt to be written. */
interface Entry {
  readonly userId: string;
  /** Set when its endpoint is registered. */
  readonly attempt: RegisteredAttempt | undefined;
  readonly member: string;
  /** The member of the set of responses, if there is one. */
  readonly response: string | undefined;
  readonly onSent: (() => void) | undefined;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

/** What to read of a log. */
export interface ListOptions extends AttemptQuery {
  /** Whether to read what is kept of responses, which is for operators. Not by default. */
  readonly withResponses?: boolean;
}

/** The log of all users. */
export interface AttemptLog {
  /**
   * Add an attempt, idempotently. One script writes all attempts that end in the same event-loop turn.
   *
   * @param onSent  called once it is sent: anything sent over the same connection afterwards takes effect after it, since
   *                commands keep their order even when resent
   * @throws  when Valkey answers with an error (wrong type of key, memory is full); waits while it is away
   */
  record(userId: string, attempt: Attempt, onSent?: () => void): Promise<void>;
  /** A user's attempts that are kept, newest first; all unless selected by options. */
  list(userId: string, nowMs: number, options?: ListOptions): Promise<Attempt[]>;
}

export function createAttemptLog(valkey: Valkey, options: LogOptions = {}): AttemptLog {
  const { logSize = DEFAULT_SIZE, logAgeMs = DEFAULT_AGE_MS, showResponse = false, tag = "", endpoints } = options;
  const pending = perTurn(async (entries: Entry[]) => {
    try {
      const written = writeEntries(valkey, entries, { logSize, logAgeMs, tag, endpoints });
      const urgent = entries.filter(({ attempt }) => attempt !== undefined && endpoints?.isUrgent(attempt));
      for (const entry of entries) if (urgent.length === 0 || !urgent.includes(entry)) entry.onSent?.();
      const { errors, recorded, nowMs } = readReply(await written, entries);
      for (const error of errors) {
        const [position, ...words] = error.split(":");
        entries[Number(position) - 1]?.reject(new Error(words.join(":")));
      }
      if (recorded.length > 0) await endpoints?.recorded(recorded, nowMs);
      for (const { onSent } of urgent) onSent?.();
      for (const { resolve } of entries) resolve(); // no effect on those already rejected
    } catch (error) {
      for (const { reject } of entries) reject(error as Error);
    }
  });

  return {
    record(userId, attempt, onSent) {
      const { member, response } = writeMembers(attempt, showResponse);
      endpoints?.observed(attempt);
      const isRegistered = endpoints !== undefined && attempt.endpoint_id !== undefined;
      const registered = isRegistered ? (attempt as RegisteredAttempt) : undefined;
      return new Promise((resolve, reject) => {
        pending.add({ userId, attempt: registered, member, response, onSent, resolve, reject });
      });
    },
    async list(userId, nowMs, { withResponses = false, ...query } = {}) {
      const key = logKey(userId, tag);
      const [reply, leftMs] = await Promise.all([
        valkey.zrevrangebyscore(key, "+inf", nowMs - logAgeMs, "WITHSCORES", "LIMIT", 0, logSize),
        valkey.pttl(key),
      ]);
      const attempts = new Map(readMembers(reply, leftMs));
      const selected = selectAttempts([...attempts.keys()], query);
      const scores = selected.map((attempt) => attempts.get(attempt) as string);
      return withResponses ? await addResponses(valkey, responsesKey(userId, tag), selected, scores) : selected;
    },
  };
}

/** The members of an attempt: in the log, and in the set of responses. */
function writeMembers(attempt: Attempt, showResponse: boolean): Pick<Entry, "member" | "response"> {
  if (attempt.response === undefined || showResponse) return { member: JSON.stringify(attempt), response: undefined };
  const { response, ...bare } = attempt;
  return { member: JSON.stringify(bare), response: JSON.stringify({ delivery: attempt.delivery, ...response }) };
}

/** What the script returns without, and with attempts of registered endpoints. */
type Reply = string[] | [errors: string[], nowMs: number, placesAndReplies: unknown[]];

/** Not EVALSHA: if the script is missing it is resent, after commands that were to take effect after it. */
function writeEntries(
  valkey: Valkey,
  entries: readonly Entry[],
  { logSize, logAgeMs, tag, endpoints }: Required<Pick<LogOptions, "logSize" | "logAgeMs" | "tag">> & LogOptions,
): Promise<Reply> {
  const keys = entries.map(({ userId }) => logKey(userId, tag));
  const args: (string | number)[] = [logSize, logAgeMs, entries.length, ...entries.map(({ member }) => member)];
  for (const [index, { userId, response }] of entries.entries()) {
    if (response === undefined) continue;
    keys.push(responsesKey(userId, tag));
    args.push(index + 1, response);
  }
  const hasResponses = keys.length > entries.length;
  let registered = 0;
  for (const [index, { attempt }] of entries.entries()) {
    if (attempt === undefined || endpoints === undefined) continue;
    registered += 1;
    args.push(index + 1, attempt.endpoint_id, endpoints.resultOf(attempt), endpoints.jobOf(attempt));
  }
  if (registered === 0 || endpoints === undefined) {
    const script = hasResponses ? WITH_RESPONSES : WITHOUT_RESPONSES;
    return valkey.eval(script, keys.length, ...keys, ...args) as Promise<Reply>;
  }
  const script = scriptFor(endpoints.script, hasResponses);
  return valkey.eval(script, keys.length, ...keys, ...args, registered, logKey("", tag).length) as Promise<Reply>;
}

function readReply(reply: Reply, entries: readonly Entry[]) {
  const [errors, nowMs, replies] = reply as [string[], number, unknown[]];
  if (!Array.isArray(replies)) return { errors: reply as string[], nowMs: 0, recorded: [] };
  const recorded: RecordedAttempt[] = [];
  if (replies.length > 0) {
    const registered = entries.filter(({ attempt }) => attempt !== undefined);
    for (let at = 0; at < replies.length; at += 2) {
      const { userId, attempt } = registered[(replies[at] as number) - 1] as Entry;
      recorded.push({ userId, attempt: attempt as RegisteredAttempt, reply: replies[at + 1] });
    }
  }
  return { errors, nowMs, recorded };
}

/** @param scores  those of the attempts in the log, newest first; their responses have the same */
async function addResponses(
  valkey: Valkey,
  key: string,
  attempts: Attempt[],
  scores: readonly string[],
): Promise<Attempt[]> {
  const [newest, oldest] = [scores[0], scores.at(-1)];
  if (newest === undefined || oldest === undefined) return attempts;
  const members = await valkey.zrevrangebyscore(key, newest, oldest);
  const responses = new Map<string, KeptResponse>();
  for (const member of members) {
    const { delivery, ...response } = readMember<KeptResponse & { delivery: string }>(member) ?? {};
    if (delivery !== undefined) responses.set(delivery, response as KeptResponse);
  }
  return attempts.map((attempt) => {
    const response = responses.get(attempt.delivery);
    return response === undefined ? attempt : { ...attempt, response };
  });
}

/**
 * The attempts of a log, with their scores.
 *
 * @param reply   members and scores, newest first; invalid members are left out
 * @param leftMs  how long the log's key has left; negative if it does not expire
 */
export function readMembers(reply: readonly string[], leftMs: number): [attempt: Attempt, score: string][] {
  // The workers' setting may be shorter than ours: with the newest entry, the key was set to expire at that age.
  const oldest = leftMs < 0 ? Number.NEGATIVE_INFINITY : Number(reply[1]) - leftMs;
  const attempts: [Attempt, string][] = [];
  for (let i = 0; i < reply.length; i += 2) {
    const score = reply[i + 1] as string;
    const attempt = Number(score) < oldest ? undefined : readMember<Attempt>(reply[i] as string);
    if (attempt !== undefined) attempts.push([attempt, score]);
  }
  return attempts;
}

/** Parse a member; undefined for invalid ones. */
function readMember<T extends { readonly delivery: string }>(member: string): T | undefined {
  try {
    const value: unknown = JSON.parse(member);
    return typeof value === "object" && value !== null && "delivery" in value ? (value as T) : undefined;
  } catch {
    return undefined;
  }
}
