/**
 * A client for one name server, over UDP, and over TCP when an answer is too long for a datagram.
 *
 * Not `dns.Resolver`: in Bun 1.4.5, it checks timeouts only once a second, uses a full core while a server refuses datagrams, and
 * gives a server that has been fast no more than 250 ms for the next name.
 */
import { randomInt } from "node:crypto";
import { createSocket } from "node:dgram";
import { connect } from "node:net";
import { buildQuestion, type DnsAnswer, parseDnsAnswer, type RecordType } from "./message.ts";
import type { NameServer } from "./resolv-conf.ts";

/** The reply to a question: an answer, or `unreachable` when nothing listens at the server's address. Silence gives no reply. */
export type Reply = DnsAnswer | { readonly kind: "unreachable" };

/** Called once, unless the question is canceled. */
type OnReply = (reply: Reply) => void;

const QUESTIONS_PER_PORT = 256; // then a new port, which makes it harder to guess for someone who wants to spoof answers
const SUSPECT_AFTER = 3; // unanswered questions in a row
const SUSPECT_MS = 10 * 1000; // 10 s
const IDS = 2 ** 16;

interface Asked {
  readonly question: Buffer;
  readonly name: string;
  readonly type: RecordType;
  readonly onReply: OnReply;
}

/** A name server, and what this process knows about it. */
export class NameServerClient {
  #port: Port | undefined;
  #silences = 0;
  #suspectUntil = 0;

  constructor(private readonly server: NameServer) {}

  /** Whether it was silent or unreachable recently: other servers should be asked first. */
  get isSuspect(): boolean {
    return performance.now() < this.#suspectUntil;
  }

  /** Report that it did not answer a question in time. */
  silent(): void {
    this.#silences += 1;
    if (this.#silences >= SUSPECT_AFTER) this.#suspectUntil = performance.now() + SUSPECT_MS;
  }

  /**
   * Ask for the addresses of a name.
   *
   * @param name  one that {@link buildQuestion} accepts
   * @returns cancels the question
   */
  ask(name: string, type: RecordType, onReply: OnReply): () => void {
    if (this.#port === undefined || this.#port.isFull) this.#port = new Port(this.server);
    let cancel = this.#port.ask(name, type, (reply) => {
      this.#replied(reply);
      if (reply.kind === "truncated") cancel = askOverTcp(this.server, name, type, onReply);
      else onReply(reply);
    });
    return () => cancel();
  }

  #replied({ kind }: Reply): void {
    this.#silences = 0;
    this.#suspectUntil = kind === "unreachable" ? performance.now() + SUSPECT_MS : 0;
  }
}

/** A UDP socket. It stays open while a question is pending, and does not keep the process alive. */
class Port {
  readonly #open = new Map<number, Asked>();
  readonly #socket;
  #unsent: Buffer[] | undefined = [];
  #count = 0;
  #isClosed = false;

  constructor(server: NameServer) {
    const { address, port } = server;
    const family = address.includes(":") ? 6 : 4;
    // The address is a literal: the default lookup would wait for a thread just to return it.
    const lookup = (_: string, __: object, done: (error: null, address: string, family: number) => void): void =>
      done(null, address, family);
    this.#socket = createSocket({ type: family === 6 ? "udp6" : "udp4", lookup: lookup as never });
    this.#socket.on("message", (message) => this.#received(message));
    this.#socket.on("error", () => this.#failed()); // nothing listens, no route, or out of descriptors
    this.#socket.connect(port, address, () => {
      this.#socket.unref();
      for (const question of this.#unsent ?? []) this.#send(question);
      this.#unsent = undefined;
    });
  }

  /** Whether it takes no more questions, because it has had its share or is closed. */
  get isFull(): boolean {
    return this.#isClosed || this.#count >= QUESTIONS_PER_PORT;
  }

  ask(name: string, type: RecordType, onReply: OnReply): () => void {
    let id = randomInt(IDS);
    while (this.#open.has(id)) id = randomInt(IDS);
    const question = buildQuestion(id, name, type) as Buffer;
    this.#open.set(id, { question, name, type, onReply });
    this.#count += 1;
    if (this.#unsent === undefined) this.#send(question);
    else this.#unsent.push(question);
    return () => this.#forget(id);
  }

  #send(question: Buffer): void {
    if (!this.#isClosed) this.#socket.send(question);
  }

  #received(message: Buffer): void {
    const id = message.length >= 2 ? message.readUInt16BE(0) : -1;
    const asked = this.#open.get(id);
    if (asked === undefined) return;
    const answer = parseDnsAnswer(message, asked.question, asked.type);
    if (answer === undefined) return; // spoofed or malformed: the real answer may still arrive
    this.#forget(id);
    asked.onReply(answer);
  }

  #forget(id: number): void {
    this.#open.delete(id);
    if (this.#open.size === 0) this.#close();
  }

  #failed(): void {
    const open = [...this.#open.values()];
    this.#open.clear();
    this.#close();
    for (const { onReply } of open) onReply({ kind: "unreachable" });
  }

  #close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#socket.close();
  }
}

function askOverTcp({ address, port }: NameServer, name: string, type: RecordType, onReply: OnReply): () => void {
  const question = buildQuestion(randomInt(IDS), name, type) as Buffer;
  const socket = connect({ host: address, port }).unref();
  let received = Buffer.alloc(0);
  const settle = (reply: Reply): void => {
    socket.removeAllListeners("data").removeAllListeners("close").destroy();
    onReply(reply);
  };
  socket.on("connect", () =>
    socket.write(Buffer.concat([Buffer.of(question.length >> 8, question.length & 0xff), question])),
  );
  socket.on("data", (bytes: Buffer) => {
    received = Buffer.concat([received, bytes]);
    if (received.length < 2 || received.length < 2 + received.readUInt16BE(0)) return;
    settle(parseDnsAnswer(received.subarray(2), question, type) ?? { kind: "refused" });
  });
  socket.on("error", () => {}); // "close" follows
  socket.on("close", () => settle({ kind: "refused" }));
  return () => socket.removeAllListeners("close").destroy();
}
