/** Receivers that speak nothing but HTTP/2. */
import { afterEach, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { type AddressInfo, createServer as createTcpServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { createServer as createTlsServer } from "node:tls";
import { type Network, parseNetwork } from "../src/dns/address.ts";
import { createSender } from "../src/http/sender.ts";

const support = (name: string) => readFileSync(join(import.meta.dir, "support", name), "utf8");
const right = support("right.pem");
const SETTINGS = Buffer.from("000006040000000000000300000064", "hex");
const GOAWAY = Buffer.from("0000080700000000000000000000000001", "hex"); // PROTOCOL_ERROR

const open: { stop(): unknown }[] = [];
afterEach(async () => {
  for (const { stop } of open.splice(0).reverse()) await stop();
});

async function serve(server: Server): Promise<number> {
  const sockets: Socket[] = [];
  server.on("connection", (socket: Socket) => void sockets.push(socket.on("error", () => {})));
  server.on("tlsClientError", () => {});
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  open.push({
    stop: () => {
      for (const socket of sockets) socket.destroy();
      return new Promise((resolve) => server.close(resolve));
    },
  });
  return (server.address() as AddressInfo).port;
}

/** What a delivery to a port of this machine ends with. */
async function codeOf(port: number, scheme: "http" | "https"): Promise<unknown> {
  const sender = createSender({
    timeoutMs: 5_000,
    allowNetworks: [parseNetwork("127.0.0.0/8") as Network],
    resolve: async () => [{ address: "127.0.0.1", family: 4 }],
    ca: support("ca.pem"),
  });
  open.push({ stop: () => sender.close() });
  const url = new URL(`${scheme}://receiver.test:${port}/in`);
  const body = Buffer.from("{}");
  const outcome = await sender.send({ url, head: `Host: ${url.host}\r\nContent-Length: 2\r\n`, body }, "1");
  return "code" in outcome ? outcome.code : outcome;
}

describe("a server of node:http2", () => {
  test.each(["http", "https"] as const)("is told as one that speaks HTTP/2 only (%s)", async (scheme) => {
    const script = `
      const http2 = require("node:http2");
      const pem = ${JSON.stringify(right)};
      const answer = (stream) => { stream.respond({ ":status": 200 }); stream.end(); };
      const server = ${scheme === "https"} ? http2.createSecureServer({ key: pem, cert: pem }) : http2.createServer();
      server.on("stream", answer).on("sessionError", () => {}).listen(0, "127.0.0.1", () => console.log(server.address().port));`;
    const child = Bun.spawn([Bun.which("node") ?? process.execPath, "-e", script], { stdout: "pipe" });
    open.push({ stop: () => child.kill() });
    const { value } = await child.stdout.getReader().read();
    for (let round = 0; round < 10; round++) {
      expect(await codeOf(Number(new TextDecoder().decode(value)), scheme)).toBe("http2_only");
    }
  });
});

describe("a server over TLS", () => {
  test("that refuses all protocols but h2 is one of HTTP/2 only", async () => {
    const port = await serve(createTlsServer({ key: right, cert: right, ALPNProtocols: ["h2"] }));
    expect(await codeOf(port, "https")).toBe("http2_only");
  });

  test("that picks h2, which was not offered, is one of HTTP/2 only", async () => {
    const extensions = Buffer.from("ff010001000010000500030268" + "32", "hex"); // renegotiation_info; ALPN: h2
    const hello = Buffer.concat([
      Buffer.from("0303", "hex"), // TLS 1.2
      Buffer.alloc(32, 7), // random
      Buffer.from("00c02f00", "hex"), // no session; ECDHE-RSA-AES128-GCM-SHA256; no compression
      Buffer.from([0, extensions.length]),
      extensions,
    ]);
    const handshake = Buffer.concat([Buffer.from([2, 0, 0, hello.length]), hello]);
    const record = Buffer.concat([Buffer.from([22, 3, 3, 0, handshake.length]), handshake]);
    const port = await serve(createTcpServer((socket) => void socket.once("data", () => socket.write(record))));
    expect(await codeOf(port, "https")).toBe("http2_only");
  });

  test("that offers both is spoken to in HTTP/1.1", async () => {
    let protocol: unknown;
    const server = createTlsServer({ key: right, cert: right, ALPNProtocols: ["h2", "http/1.1"] }, (socket) => {
      protocol = socket.alpnProtocol;
      socket.on("error", () => {}).once("data", () => socket.write("HTTP/1.1 204 No Content\r\n\r\n"));
    });
    expect(await codeOf(await serve(server), "https")).toMatchObject({ status: 204 });
    expect(protocol).toBe("http/1.1");
  });
});

describe("frames of HTTP/2", () => {
  test.each(["http", "https"] as const)(
    "tell a server of nothing else, before the request and after it (%s)",
    async (scheme) => {
      const speaking = (speak: (socket: Socket) => void) =>
        serve(scheme === "http" ? createTcpServer(speak) : createTlsServer({ key: right, cert: right }, speak));
      const greeting = await speaking((socket) => void socket.write(SETTINGS));
      const answering = await speaking((socket) => {
        socket.on("error", () => {}).once("data", () => socket.end(Buffer.concat([SETTINGS, GOAWAY])));
      });
      for (let round = 0; round < 10; round++) {
        expect(await codeOf(greeting, scheme)).toBe("http2_only");
        expect(await codeOf(answering, scheme)).toBe("http2_only");
      }
    },
  );
});
