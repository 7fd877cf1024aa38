/**
 * The receiver of the benches that measure others: bare TCP, a constant answer, so that it costs a few µs a request.
 *
 *   bun bench/sink.ts [--hosts 1] [--times] [--tls <file>[,<file> …]]
 *
 * Listens on as many loopback addresses, 127.0.0.1 first, all on one port; with `--tls` each 250 of them on the key and
 * certificate (PEM) of one file. Reads requests by their Content-Length. With
 * `--times` it notes how long each event took: arrival minus the `sentAt` (epoch ms) in its body.
 *
 * Prints `{"port","control"}` as the first line. `GET <control>` tells {@link SinkCounts}, `GET <control>/times` the noted
 * times in ms, `DELETE <control>` forgets both but the open connections.
 */
import { readFileSync } from "node:fs";
import { epochMs } from "./clock.ts";
import { HOSTS_PER_NET, hostOf } from "./hosts.ts";
import { readOptions } from "./options.ts";

export interface SinkCounts {
  readonly requests: number;
  /** Accepted so far. */
  readonly connections: number;
  /** Open now. */
  readonly open: number;
  /** µs of CPU that the sink has used. */
  readonly cpuMicros: number;
}

const { values } = readOptions({
  hosts: { type: "string", default: "1" },
  times: { type: "boolean", default: false },
  tls: { type: "string" },
});

const ANSWER = Buffer.from("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok");
const MAX_TIMES = 1_000_000;
const SENT_AT = '"sentAt":';

let requests = 0;
let connections = 0;
let open = 0;
let times: number[] = [];

interface State {
  /** The beginning of a request whose end has not come yet. */
  rest?: Buffer;
}

const pems = values.tls?.split(",").map((file) => readFileSync(file, "utf8"));
const socket: Bun.SocketHandler<State> = {
  open(socket) {
    socket.data = {};
    connections += 1;
    open += 1;
  },
  close() {
    open -= 1;
  },
  data(socket, chunk) {
    const { rest } = socket.data;
    const bytes = rest === undefined ? chunk : Buffer.concat([rest, chunk]);
    let start = 0;
    for (let end = endOf(bytes, start); end > 0; end = endOf(bytes, start)) {
      requests += 1;
      if (values.times) note(bytes, start);
      socket.write(ANSWER);
      start = end;
    }
    socket.data.rest = start < bytes.length ? Buffer.from(bytes.subarray(start)) : undefined;
  },
};

/** Where the request that begins at `start` ends; 0 while it is not complete. */
function endOf(bytes: Buffer, start: number): number {
  const headerEnd = bytes.indexOf("\r\n\r\n", start);
  if (headerEnd < 0) return 0;
  const length = /\r\ncontent-length: *(\d+)/i.exec(bytes.toString("latin1", start, headerEnd));
  const end = headerEnd + 4 + Number(length?.[1] ?? 0);
  return end > bytes.length ? 0 : end;
}

function note(bytes: Buffer, start: number): void {
  const found = bytes.indexOf(SENT_AT, start);
  if (found < 0 || times.length >= MAX_TIMES) return;
  const digits = found + SENT_AT.length;
  times.push(epochMs() - Number.parseFloat(bytes.toString("latin1", digits, digits + 20)));
}

let port = 0;
for (let index = 0; index < Number(values.hosts); index++) {
  const pem = pems?.[Math.floor(index / HOSTS_PER_NET)];
  const tls = pem === undefined ? {} : { tls: { key: pem, cert: pem } };
  ({ port } = Bun.listen<State>({ hostname: hostOf(index), port, socket, ...tls }));
}
const control = Bun.serve({
  hostname: "127.0.0.1",
  port: 0,
  fetch(request) {
    if (request.method === "DELETE") {
      requests = 0;
      connections = 0;
      times = [];
    }
    if (new URL(request.url).pathname === "/times") return Response.json(times);
    const { user, system } = process.cpuUsage();
    return Response.json({ requests, connections, open, cpuMicros: user + system } satisfies SinkCounts);
  },
});
console.log(JSON.stringify({ port, control: control.url.origin }));
