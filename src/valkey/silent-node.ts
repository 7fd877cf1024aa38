/**
 * Notices that a node of a cluster answers no more and another has taken over its slot. A frozen machine closes no
 * connections, so nothing else would say so before the connection's timeout.
 */
import type { Command, Redis } from "ioredis";
import type { SlotConnector, SlotOptions } from "./cluster.ts";

const LOOK_MS = 1000; // 1 s
const PATIENCE = 3; // looks that may find the same command unanswered
const BLOCKING = new Set(["bzpopmin", "brpoplpush", "blmove", "xread"]); // unanswered for as long as there is nothing

/**
 * Look after a connection into a cluster. When a command is unanswered for 3 s, the cluster is asked who owns the slot; when
 * that is another node, the connection is cut, and so are all that are silent and lead to the same node. Asks nothing of a
 * node that answers.
 */
export function watchSilence(connection: Redis, { topology, slot }: SlotOptions): void {
  const { connector } = connection as unknown as { readonly connector: SlotConnector }; // private in ioredis' types
  let oldest: Command | undefined;
  let looks = 0;
  let timer: ReturnType<typeof setInterval> | undefined;
  const cutIfReplaced = (): void => {
    if (timer === undefined || connector.owner === undefined || !topology.isReplaced(connector.owner, slot)) return;
    stop();
    connection.stream.destroy(new Error("another node has taken over from one that does not answer"));
  };
  const look = (): void => {
    const command = connection.commandQueue.peekFront()?.command as Command | undefined;
    if (command === undefined || command !== oldest) looks = 0;
    oldest = command;
    if (command === undefined || looks++ < PATIENCE) return;
    cutIfReplaced();
    if (!BLOCKING.has(command.name)) topology.ownerOf(slot).then(cutIfReplaced, () => {});
  };
  const stop = (): void => {
    clearInterval(timer);
    timer = undefined;
    looks = 0;
  };
  connection.on("connect", () => {
    stop();
    timer = setInterval(look, LOOK_MS);
    timer.unref();
  });
  connection.on("close", stop);
}
