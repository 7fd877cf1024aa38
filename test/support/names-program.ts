/**
 * Sends to names as a worker does that has no setting for it: by the machine's own hosts file, resolv.conf and port 53. Runs in
 * namespaces of its own, where these are a test's; prints what came of each name, a JSON object.
 */

import { type Outcome, statusCode } from "../../src/delivery/outcome.ts";
import { parseNetwork } from "../../src/dns/address.ts";
import { createSender } from "../../src/http/sender.ts";
import { listen } from "./listener.ts";
import { startNameServer, v4 } from "./name-server.ts";

const DEAD_NAMES = 60;

const receiver = await listen(({ socket }) => void socket.write("HTTP/1.1 204 No Content\r\n\r\n"));
const nameServer = await startNameServer((question) => {
  if (question.name.includes("dead")) return undefined;
  const isKnown = ["web.example", "short.search.example"].includes(question.name) || question.name.startsWith("live");
  return isKnown ? v4("127.0.0.1")(question) : { code: "NXDOMAIN" };
}, 53);
const loopback = parseNetwork("127.0.0.0/8");
if (loopback === undefined) throw new Error("expected a network");
const sender = createSender({ timeoutMs: 8_000, allowNetworks: [loopback] });

let count = 0;
const send = (host: string): Promise<Outcome> => {
  const url = new URL(`http://${host}:${receiver.port}/`);
  const head = `Host: ${host}\r\nContent-Length: 2\r\n`;
  return sender.send({ url, head, body: Buffer.from("{}") }, `${count++}`);
};
const shown = (outcome: Outcome) => statusCode(outcome) ?? ("code" in outcome ? outcome.code : outcome.kind);

const outcomes: Record<string, unknown> = {};
for (const host of ["hosts.example", "web.example", "short", "nowhere.example", "inside.example"]) {
  outcomes[host] = shown(await send(host));
}
outcomes.asked = nameServer.asked.filter((each) => /^A (hosts|inside)/.test(each));

// Names whose server says nothing, and others beside them.
const dead = Array.from({ length: DEAD_NAMES }, (_, i) => send(`hook.dead${i}.example`));
const live = await Promise.all(Array.from({ length: 20 }, (_, i) => send(`live${i}.example`)));
outcomes.live = [...new Set(live.map(shown))];
outcomes.slowestMs = Math.max(...live.map(({ durationMs }) => durationMs));
outcomes.dead = [...new Set((await Promise.all(dead)).map(shown))];

nameServer.stop();
outcomes["with nobody at port 53"] = shown(await send("gone.example"));
process.stdout.write(JSON.stringify(outcomes));
process.exit(0);
