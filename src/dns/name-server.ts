/**
 * One name server: takes questions over UDP, and over TCP where an answer is too long for that.
 *
 * Not `dns.Resolver`: Bun 1.4.5 looks at its timeouts once a second only, spins on a core while a server refuses datagrams,
 * and lets a server that was quick before have no more than 250 ms for the next name.
 */
import { randomInt } from "node:crypto";
import { createSocket } from "node:dgram";
import { connect } from "node:net";
import { buildQuestion, type DnsAnswer, parseDnsAnswer, type RecordType } from "./message.ts";
import type { NameServer } from "./resolv-conf.ts";

/** What came of a question: an answer, or word that nobody listens there. Silence is not told. */
export type Reply = DnsAnswer | { readonly kind: "unreachable" };

/** Told once, unless the question was withdrawn. */
type OnReply = (reply: Reply) => void;

const QUESTIONS_PER_PORT = 256; // then another port, so that an outsider who wants to answer has to guess it anew
const SUSPECT_AFTER = 3; // questions in a row
const SUSPECT_MS = 10 * 1000; // 10 s in which others are asked first
const IDS = 2 ** 16;

interface Asked {
  readonly question: Buffer;
  readonly name: string;
  readonly type: RecordType;
  readonly onReply: OnReply;
}

/** A name server as this process knows it. */
export class NameServerClient {
  #port: Port | undefined;
  #silences = 0;
  #suspectUntil = 0;

  constructor(private readonly server: NameServer) {}

  /** It was silent lately: others are asked first. */
  get isSuspect(): boolean {
    return performance.now() < this.#suspectUntil;
  }

  /** A question to it has waited long enough. */
  silent(): void {
    this.#silences += 1;
    if (this.#silences >= SUSPECT_AFTER) this.#suspectUntil = performance.now() + SUSPECT_MS;
  }

  /**
   * Ask for the addresses of a name.
   *
   * @param name  one that {@link buildQuestion} takes
   * @returns withdraws the question
   */
  ask(name: string, type: RecordType, onReply: OnReply): () => void {
    if (this.#port === undefined || this.#port.isFull) this.#port = new Port(this.server);
    let withdraw = this.#port.ask(name, type, (reply) => {
      this.#heard(reply);
      if (reply.kind === "truncated") withdraw = askOverTcp(this.server, name, type, onReply);
      else onReply(reply);
    });
    return () => withdraw();
  }

  #heard({ kind }: Reply): void {
    this.#silences = 0;
    this.#suspectUntil = kind === "unreachable" ? performance.now() + SUSPECT_MS : 0;
  }
}

/** A UDP socket. It is open while there is a question, and does not keep the process. */
class Port {
  readonly #open = new Map<number, Asked>();
  readonly #socket;
  #unsent: Buffer[] | undefined = [];
  #count = 0;
  #isClosed = false;

  constructor(server: NameServer) {
    const { address, port } = server;
    const family = address.includes(":") ? 6 : 4;
    // An address needs no looking up, which would wait for a thread.
    const lookup = (_: string, __: object, done: (error: null, address: string, family: number) => void): void =>
      done(null, address, family);
    this.#socket = createSocket({ type: family === 6 ? "udp6" : "udp4", lookup: lookup as never });
    this.#socket.on("message", (message) => this.#received(message));
    this.#socket.on("error", () => this.#failed()); // nobody listens, no route, or no descriptor is left
    this.#socket.connect(port, address, () => {
      this.#socket.unref();
      for (const question of this.#unsent ?? []) this.#send(question);
      this.#unsent = undefined;
    });
  }

  /** It has had its share of questions, or is closed. */
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
    if (answer === undefined) return; // not from the server, or broken: the true one may come yet
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
