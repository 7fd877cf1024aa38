/**
 * A real name server on loopback, UDP and TCP on one port, whose answers a test writes.
 */
import { createSocket, type RemoteInfo, type Socket } from "node:dgram";
import { once } from "node:events";
import { type AddressInfo, createServer, type Server } from "node:net";
import { RECORD_TYPES, type RecordType } from "../../src/dns/message.ts";
import type { NameServer } from "../../src/dns/resolv-conf.ts";

/** What is said to a question. What is not given is empty: `{}` is a name without addresses of that family. */
export interface Said {
  readonly addresses?: readonly string[];
  /** The names on the way from the one asked for to the one that has the addresses. */
  readonly aliases?: readonly string[];
  readonly ttlSeconds?: number;
  readonly code?: "NXDOMAIN" | "SERVFAIL";
  readonly afterMs?: number;
  /** Over UDP the answer is cut short, so that the asker has to come again over TCP. */
  readonly isTruncated?: boolean;
}

export interface Question {
  readonly name: string;
  readonly type: RecordType;
  readonly isTcp: boolean;
}

/** What a server says; undefined is silence. */
export type Script = (question: Question) => Said | undefined;

export interface TestNameServer extends Disposable {
  readonly server: NameServer;
  /** All that was asked so far, as in `A a.example`; over TCP with `/tcp` behind it. */
  readonly asked: readonly string[];
  /** In place of the script so far. */
  script: Script;
  /** May be called again. */
  stop(): void;
}

const RCODES = { NXDOMAIN: 3, SERVFAIL: 2 };
const CNAME = 5;

/** Answers with IPv4 addresses alone. */
export const v4 =
  (...addresses: string[]): Script =>
  ({ type }) =>
    type === "A" ? { addresses } : {};

/** Start a name server on 127.0.0.1, on a free port unless one is given. */
export async function startNameServer(script: Script, wantedPort = 0): Promise<TestNameServer> {
  const asked: string[] = [];
  const { tcp, udp, port } = await listenOnBoth(wantedPort);
  let isStopped = false;
  const self: TestNameServer = {
    server: { address: "127.0.0.1", port },
    asked,
    script,
    stop() {
      if (isStopped) return;
      isStopped = true;
      udp.close();
      tcp.close();
    },
    [Symbol.dispose]: () => self.stop(),
  };

  function hear(message: Buffer, isTcp: boolean, reply: (answer: Buffer) => void): void {
    const question = readQuestion(message, isTcp);
    asked.push(`${question.type} ${question.name}${isTcp ? "/tcp" : ""}`);
    const said = self.script(question);
    if (said === undefined) return;
    const answer = writeAnswer(message, question, said);
    const send = () => isStopped || reply(answer);
    if (said.afterMs === undefined) send();
    else setTimeout(send, said.afterMs);
  }

  udp.on("message", (message: Buffer, { port, address }: RemoteInfo) =>
    hear(message, false, (answer) => udp.send(answer, port, address)),
  );
  tcp.on("connection", (socket) => {
    socket.on("error", () => {});
    socket.on("data", (bytes: Buffer) =>
      hear(bytes.subarray(2), true, (answer) => {
        const framed = Buffer.concat([Buffer.of(answer.length >> 8, answer.length & 0xff), answer]);
        socket.write(framed.subarray(0, 5)); // in two pieces, as a stream may come
        setTimeout(() => socket.end(framed.subarray(5)), 5);
      }),
    );
  });
  return self;
}

/** A socket of each kind on one port. Those of other programs may have the number that TCP got: then another. */
async function listenOnBoth(wantedPort: number): Promise<{ tcp: Server; udp: Socket; port: number }> {
  for (;;) {
    const tcp = createServer().listen(wantedPort, "127.0.0.1");
    await once(tcp, "listening");
    const { port } = tcp.address() as AddressInfo;
    const udp = createSocket("udp4").bind(port, "127.0.0.1");
    try {
      await once(udp, "listening");
      return { tcp, udp, port };
    } catch (error) {
      tcp.close();
      if (wantedPort !== 0) throw error;
    }
  }
}

function readQuestion(message: Buffer, isTcp: boolean): Question {
  const labels: string[] = [];
  let at = 12;
  for (let length = message[at] as number; length > 0; length = message[at] as number) {
    labels.push(message.toString("latin1", at + 1, at + 1 + length));
    at += 1 + length;
  }
  const type = message.readUInt16BE(at + 1) === RECORD_TYPES.A ? "A" : "AAAA";
  return { name: labels.join("."), type, isTcp };
}

function writeAnswer(message: Buffer, { name, type, isTcp }: Question, said: Said): Buffer {
  const { addresses = [], aliases = [], ttlSeconds = 60, code, isTruncated = false } = said;
  const isCut = isTruncated && !isTcp;
  const chain = [name, ...aliases];
  const records = [
    ...aliases.map((alias, i) => writeRecord(chain[i] as string, CNAME, ttlSeconds, writeName(alias))),
    ...addresses.map((address) =>
      writeRecord(chain.at(-1) as string, RECORD_TYPES[type], ttlSeconds, writeAddress(address)),
    ),
  ];
  const head = Buffer.alloc(12);
  message.copy(head, 0, 0, 2);
  head.writeUInt16BE(0x8180 | (isCut ? 0x0200 : 0) | (code === undefined ? 0 : RCODES[code]), 2);
  head.writeUInt16BE(1, 4);
  head.writeUInt16BE(isCut ? 0 : records.length, 6);
  return Buffer.concat([head, message.subarray(12), ...(isCut ? [] : records)]);
}

function writeRecord(owner: string, type: number, ttlSeconds: number, data: Buffer): Buffer {
  const fields = Buffer.alloc(10);
  fields.writeUInt16BE(type, 0);
  fields.writeUInt16BE(1, 2);
  fields.writeUInt32BE(ttlSeconds, 4);
  fields.writeUInt16BE(data.length, 8);
  return Buffer.concat([writeName(owner), fields, data]);
}

function writeName(name: string): Buffer {
  const labels =
    name === "" ? [] : name.split(".").flatMap((label) => [Buffer.of(label.length), Buffer.from(label, "latin1")]);
  return Buffer.concat([...labels, Buffer.of(0)]);
}

/** IPv6 in full form only: eight groups. */
function writeAddress(address: string): Buffer {
  if (!address.includes(":")) return Buffer.from(address.split(".").map(Number));
  return Buffer.from(address.split(":").flatMap((group) => [parseInt(group, 16) >> 8, parseInt(group, 16) & 0xff]));
}
