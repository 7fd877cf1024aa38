/**
 * Settings of a cluster's nodes that decide what a dead node costs, for `--check`.
 */
import { isAnswer, type Valkey } from "../valkey/connection.ts";

const NAMES = ["cluster-require-full-coverage", "cluster-node-timeout", "min-replicas-to-write", "appendonly"] as const;
const GOOD_NODE_TIMEOUT_MS = 5 * 1000; // 5 s: Valkey's own default is 15 s

/** Whether a server is a node of a cluster; false if it does not say. */
export async function readIsCluster(valkey: Pick<Valkey, "info">): Promise<boolean> {
  return /^cluster_enabled:1\r?$/m.test(await valkey.info());
}

/** What to reconsider in a primary's settings; a sentence each, without its period. */
export async function readClusterNotes(valkey: Pick<Valkey, "config" | "info">): Promise<string[]> {
  const info = await valkey.info();
  const replicas = Number(/^connected_slaves:(\d+)/m.exec(info)?.[1] ?? Number.NaN);
  const settings = await readSettings(valkey);
  if (settings === undefined) {
    return ["The Valkey user may not run CONFIG GET, so the cluster's settings are unknown: grant +config|get"];
  }
  return judgeClusterSettings(settings, replicas);
}

type Settings = Readonly<Partial<Record<(typeof NAMES)[number], string>>>;

/** @param replicas  of the primary, that are connected; NaN if unknown */
export function judgeClusterSettings(settings: Settings, replicas: number): string[] {
  const minReplicas = Number(settings["min-replicas-to-write"]);
  const timeoutMs = Number(settings["cluster-node-timeout"]);
  const notes: [boolean, string][] = [
    [
      settings["cluster-require-full-coverage"] === "yes",
      "cluster-require-full-coverage is yes: one dead primary without a replica stops all shards; set it to no",
    ],
    [
      timeoutMs > GOOD_NODE_TIMEOUT_MS,
      `cluster-node-timeout is ${timeoutMs}: shards of a dead primary stand still for longer than that many ms; set it to 5000`,
    ],
    [replicas === 0, "There is no replica: when this primary dies, its shards stand still until it is back"],
    [
      replicas === 1 && minReplicas > 0,
      "min-replicas-to-write is set, with one replica: once promoted it has none, and refuses all writes; set it to 0, or add a replica",
    ],
    [
      replicas > 1 && minReplicas === 0,
      "min-replicas-to-write is 0: a primary that is cut off takes events that are lost; with two replicas or more set it to 1",
    ],
    [
      settings.appendonly === "no",
      "appendonly is no: a primary that restarts at once comes back empty, and empties its replicas; set it to yes",
    ],
  ];
  return notes.flatMap(([isSo, text]) => (isSo ? [text] : []));
}

/** Undefined when the user may not ask. */
async function readSettings(valkey: Pick<Valkey, "config">): Promise<Settings | undefined> {
  try {
    const pairs = (await valkey.config("GET", ...NAMES)) as string[];
    const isName = (_: string, index: number) => index % 2 === 0;
    return Object.fromEntries(pairs.filter(isName).map((name, index) => [name, pairs[2 * index + 1] as string]));
  } catch (error) {
    if (error instanceof Error && isAnswer(error)) return undefined;
    throw error;
  }
}
