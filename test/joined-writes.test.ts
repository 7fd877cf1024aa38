import { expect, test } from "bun:test";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { joinWrites } from "../src/valkey/joined-writes.ts";

/** A connection whose other side keeps what arrives. */
async function connected(): Promise<{ socket: Socket; ended: Promise<Buffer>; stop: () => void }> {
  const ended = Promise.withResolvers<Buffer>();
  const server = createServer((peer) => {
    const chunks: Buffer[] = [];
    peer.on("data", (chunk: Buffer) => void chunks.push(chunk));
    peer.on("end", () => ended.resolve(Buffer.concat(chunks)));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const socket = connect((server.address() as AddressInfo).port, "127.0.0.1");
  await new Promise((resolve) => socket.once("connect", resolve));
  return { socket, ended: ended.promise, stop: () => void server.close() };
}

test("what is written in one turn goes together, in order, texts and bytes alike", async () => {
  const { socket, ended, stop } = await connected();
  const written: unknown[] = [];
  const { write } = socket;
  socket.write = (part: unknown) => {
    written.push(part);
    return write.call(socket, part as Buffer);
  };
  joinWrites(socket);
  socket.write("größe ");
  socket.write(Buffer.from([0xff, 0x00]));
  socket.write(" end");
  expect(written).toEqual([]);
  await new Promise(setImmediate);
  await new Promise(setImmediate);
  expect(written).toHaveLength(1);
  socket.write("next");
  socket.end();
  expect(await ended).toEqual(
    Buffer.concat([Buffer.from("größe "), Buffer.from([0xff, 0x00]), Buffer.from(" endnext")]),
  );
  stop();
});
