/**
 * What `--check` finds out about Valkey: whether each shard can be reached, and what its node and its rights are like.
 */
import { describePast, readPastCounts } from "../homes/past-homes.ts";
import { valkeyProblems } from "../monitoring/readiness.ts";
import { findLacks, findMissed, type Program } from "../monitoring/rights.ts";
import { nameShards, type Shard } from "../queue/shards.ts";
import { describeUnserved, findUnserved } from "../queue/unserved-shards.ts";
import { capitalize } from "../runtime/printable.ts";
import { readFacts, type Valkey, type ValkeyFacts } from "../valkey/connection.ts";
import { reachValkey } from "../valkey/reach.ts";
import { isClusterUrl, placeOf } from "../valkey/url.ts";
import { readClusterNotes, readIsCluster } from "./cluster-check.ts";

type Shards = readonly [Shard, ...Shard[]];

/** What was found, by how bad it is; each a sentence without its period. */
export interface ValkeyFindings {
  /** The facts of each Valkey that could be reached, with the title of its section. */
  readonly nodes: readonly { readonly title: string; readonly facts: ValkeyFacts }[];
  /** The URL itself is wrong. */
  readonly settingProblems: readonly string[];
  /** It cannot be used. */
  readonly reachProblems: readonly string[];
  /** It is unsuitable, or lacks rights. */
  readonly factProblems: readonly string[];
  readonly notes: readonly string[];
}

/** A shard that was reached, and what its node answered. */
interface Answer {
  readonly shard: Shard;
  /** The node's address, or what the URL says where there is only one. */
  readonly place: string;
  readonly isCluster: boolean;
  readonly facts: ValkeyFacts;
  readonly lacks: readonly string[];
  readonly missed: readonly string[];
  readonly clusterNotes: readonly string[];
  /** Changes of the number of shards that have not ended; only the first shard knows them. */
  readonly pastNotes: readonly string[];
}

/** A shard that was not, and why. */
interface Failure {
  readonly shard: Shard;
  readonly reason: string;
  readonly isWrongSetting?: boolean | undefined;
}

/**
 * Ask each shard's Valkey. Resolves within seconds, whatever they do.
 *
 * @param shards  all of them
 * @param queue   undefined if the queue's name is not understood: its rights are then not tried
 */
export async function checkValkeys(
  shards: Shards,
  queue: string | undefined,
  program: Program,
): Promise<ValkeyFindings> {
  const results = await Promise.all(shards.map((shard) => ask(shard, shards, queue !== undefined, program)));
  const answers = results.filter((result): result is Answer => "facts" in result);
  const failures = results.filter((result): result is Failure => "reason" in result);
  const mistakes = await Promise.all(uniqueUrls(shards).map((url) => findMistake(url, answers, failures)));
  const wrongUrls = new Set(mistakes.flatMap((mistake) => mistake?.url ?? []));
  const isRight = ({ shard }: { shard: Shard }) => !wrongUrls.has(shard.url);
  const isWrong = ({ isWrongSetting }: Failure) => isWrongSetting === true;
  const nodes = group(answers.filter(isRight), ({ place }) => place);
  const unserved = answers.length === 0 ? [] : await findUnserved(shards);
  return {
    nodes: nodes.map(([place, own]) => ({ title: titleOf(place, own, shards), facts: own[0].facts })),
    settingProblems: [
      ...new Set(failures.filter(isWrong).map(({ reason }) => reason)),
      ...mistakes.flatMap((mistake) => mistake?.text ?? []),
    ],
    reachProblems: describeFailures(
      failures.filter((one) => isRight(one) && !isWrong(one)),
      shards,
    ),
    factProblems: [...describeProblems(nodes, shards), ...unserved.map(describeUnserved)],
    notes: [...joinNotes(nodes), ...answers.flatMap(({ pastNotes }) => pastNotes)],
  };
}

const uniqueUrls = (shards: Shards): string[] => [...new Set(shards.map(({ url }) => url))];

async function ask(shard: Shard, shards: Shards, mayTry: boolean, program: Program): Promise<Answer | Failure> {
  const reached = await reachValkey(shard.url, "fluxhook:check", shard.queue);
  if (!reached.ok) return { shard, ...reached };
  const { valkey } = reached;
  try {
    const [facts, isCluster] = await Promise.all([readFacts(valkey), readIsCluster(valkey)]);
    const place = isClusterUrl(shard.url) ? nodeOf(valkey) : placeOf(shard.url);
    const isMistaken = isCluster && !isClusterUrl(shard.url); // it would send most keys elsewhere
    // A replica accepts no writes, which its role already reports.
    const lacks = mayTry && facts.isPrimary && !isMistaken ? await findLacks(valkey, shard.queue, program) : [];
    const missed = await findMissed(valkey, facts);
    const clusterNotes = isCluster && !isMistaken ? await readClusterNotes(valkey) : [];
    const isRecorder = shard === shards[0] && !isMistaken;
    const past = isRecorder ? await readPastCounts(valkey, shards).catch(() => []) : []; // a missing right is in `lacks`
    const pastNotes = past.map((count) => capitalize(describePast(count)));
    return { shard, place, isCluster, facts, lacks, missed, clusterNotes, pastNotes };
  } catch (error) {
    return { shard, reason: (error as Error).message };
  } finally {
    valkey.disconnect();
  }
}

function nodeOf({ stream }: Valkey): string {
  const { remoteAddress: host = "", remotePort } = stream as { remoteAddress?: string; remotePort?: number };
  return `${host.includes(":") ? `[${host}]` : host}:${remotePort}`;
}

/** A URL whose form does not fit what is there: a cluster's for a Valkey without, or the other way around. */
async function findMistake(url: string, answers: readonly Answer[], failures: readonly Failure[]) {
  if (!isClusterUrl(url)) {
    const isCluster = answers.some((answer) => answer.shard.url === url && answer.isCluster);
    const text = `Valkey at ${placeOf(url)} is a node of a cluster: write redis+cluster:// in VALKEY_URL`;
    return isCluster ? { url, text } : undefined;
  }
  if (!failures.some(({ shard }) => shard.url === url) || answers.some(({ shard }) => shard.url === url))
    return undefined;
  // The first of the nodes that are named, by itself.
  const alone = url.replace(/^(rediss?)\+cluster:\/\/([^/?#]*@)?([^,/]+).*$/, "$1://$2$3");
  const reached = await reachValkey(alone, "fluxhook:check");
  if (!reached.ok) return undefined;
  const isCluster = await readIsCluster(reached.valkey).catch(() => true);
  reached.valkey.disconnect();
  const text = `Valkey at ${placeOf(alone)} is not a cluster: write redis:// in VALKEY_URL`;
  return isCluster ? undefined : { url, text };
}

function titleOf(place: string, own: readonly Answer[], shards: Shards): string {
  return shards.length === 1
    ? `Valkey at ${place}`
    : `Valkey at ${place}, with ${nameShards(own.map(({ shard }) => shard))}`;
}

function describeFailures(failures: readonly Failure[], shards: Shards): string[] {
  return group(failures, ({ shard, reason }) => `${shard.url} ${reason}`).map(([, own]) => {
    const [{ shard, reason }] = own;
    const which = own.length === shards.length ? "Valkey" : `${nameShards(own.map((one) => one.shard))} of Valkey`;
    return `${which} cannot be used at ${placeOf(shard.url)}: ${reason}`;
  });
}

/** What is wrong with each node, and with the rights in each shard. A right that all shards lack is named once. */
function describeProblems(nodes: readonly (readonly [string, readonly [Answer, ...Answer[]]])[], shards: Shards) {
  const isSingle = shards.length === 1;
  const unsuitable = nodes.flatMap(([place, [{ facts }]]) =>
    valkeyProblems(facts).map((problem) => (isSingle ? problem : `${place}: ${problem}`)),
  );
  const lacks = nodes.flatMap(([, own]) => own.flatMap((answer) => answer.lacks));
  const numbered = shards.filter(({ tag }) => tag !== "").length;
  const general = group(lacks, generalize).flatMap(([text, own]) => (own.length === numbered ? [text] : own));
  return [...unsuitable, ...new Set(general)];
}

/** The same for any shard: `{*}` in a pattern of keys means all of them. */
const generalize = (lack: string): string => lack.replaceAll(/\{\d{1,3}\}/g, "{*}");

/** Notes on nodes: those that hold for all of them once, the others with the nodes that they are about. */
function joinNotes(nodes: readonly (readonly [string, readonly [Answer, ...Answer[]]])[]): string[] {
  const notes = nodes.flatMap(([place, [{ missed, clusterNotes }]]) =>
    [...missed, ...clusterNotes].map((text) => ({ text, place })),
  );
  return group(notes, ({ text }) => text).map(([text, own]) =>
    own.length === nodes.length ? text : `${own.map(({ place }) => place).join(", ")}: ${text}`,
  );
}

function group<T>(items: readonly T[], keyOf: (item: T) => string): (readonly [string, readonly [T, ...T[]]])[] {
  const groups = new Map<string, [T, ...T[]]>();
  for (const item of items) {
    const known = groups.get(keyOf(item));
    if (known === undefined) groups.set(keyOf(item), [item]);
    else known.push(item);
  }
  return [...groups];
}
