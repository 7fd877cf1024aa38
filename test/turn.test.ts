import { expect, test } from "bun:test";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { perPoll, perTurn } from "../src/runtime/per-tick.ts";

test("what is given in one turn is handed on together, in order, and nothing twice", async () => {
  const handedOn: number[][] = [];
  const { add: give, flush } = perTurn<number>((items) => void handedOn.push(items));
  give(1);
  await Promise.resolve().then(() => give(2)); // a microtask is of the same turn
  give(3);
  expect(handedOn).toEqual([]);
  await new Promise(setImmediate);
  expect(handedOn).toEqual([[1, 2, 3]]);
  give(4);
  await new Promise(setImmediate);
  await new Promise(setImmediate);
  expect(handedOn).toEqual([[1, 2, 3], [4]]);
  give(5);
  flush();
  flush();
  expect(handedOn).toEqual([[1, 2, 3], [4], [5]]);
  await new Promise(setImmediate);
  expect(handedOn).toHaveLength(3);
});

test("what waits for a look at the sockets is handed on together, in order, after what had come over them", async () => {
  const accepted = Promise.withResolvers<Socket>();
  const server = createServer(accepted.resolve);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const near = connect((server.address() as AddressInfo).port, "127.0.0.1");
  const far = await accepted.promise;
  const heard: string[] = [];
  near.on("data", (bytes) => heard.push(`${bytes}`));
  const { add: give } = perPoll<number>((items) => heard.push(items.join()));
  const inTurn = {
    timer: (act: () => void) => setTimeout(act, 1),
    immediate: (act: () => void) => setImmediate(act),
    socket: (act: () => void) => far.once("data", act) && near.write("?"),
    microtask: (act: () => void) => queueMicrotask(act),
  };
  for (const [kind, begin] of Object.entries(inTurn)) {
    heard.length = 0;
    await new Promise<void>((resolve) =>
      begin(() => {
        far.write(kind);
        give(1);
        queueMicrotask(() => give(2));
        setImmediate(() => setImmediate(() => setImmediate(resolve)));
      }),
    );
    expect(heard).toEqual([kind, "1,2"]);
  }
  near.destroy();
  far.destroy();
  server.close();
});
