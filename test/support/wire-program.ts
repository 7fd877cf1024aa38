/**
 * Puts src/valkey/wire.ts in the place of ioredis's own reader and writer, which holds for the whole process: hence one of its own.
 *
 *   bun test/support/wire-program.ts <VALKEY_URL>
 *
 * Prints what came back as JSON, bytes as `{"type":"Buffer"}`.
 */
import { Command, Redis } from "ioredis";
import { joinWrites } from "../../src/valkey/joined-writes.ts";
import { createChance } from "./chance.ts";

const write = (name: string, args: readonly (string | Buffer)[]): Buffer =>
  Buffer.from(new Command(name, [...args]).toWritable({}) as string);
const chance = createChance(1);
const PARTS = ["", "a", "bull:webhooks:wait", "größe", "文件🦊", "\r\n", "\0", "x".repeat(2000), "\u00ff"];
const COMMANDS = Array.from({ length: 500 }, (_, index) => {
  const args = Array.from({ length: Math.floor(chance.between(0, 40)) }, () => {
    const text = chance.pick(PARTS);
    return index % 2 === 0 || chance.between(0, 1) < 0.8 ? text : Buffer.from(`${text}\u0080`, "latin1");
  });
  if (index % 3 === 0) return ["set", args] as const;
  const script = chance.pick(["digest-1", "digest-2", "größe"]); // each time with the same keys first, or with a part of them
  const keys = PARTS.slice(0, Math.floor(chance.between(index > 400 ? 0 : 6, 9)));
  return ["evalsha", [script, `${keys.length}`, ...keys, ...args]] as const;
});

const theirs = COMMANDS.map(([name, args]) => write(name, args));
await import("../../src/valkey/wire.ts");
const ours = COMMANDS.map(([name, args]) => write(name, args));
const differing = ours.filter((bytes, index) => !bytes.equals(theirs[index] as Buffer)).length;

const valkey = new Redis(process.argv[2] as string, { maxRetriesPerRequest: 0 });
valkey.on("connect", () => joinWrites(valkey.stream)); // as src/valkey/connection.ts does
const key = `wire:${crypto.randomUUID()}`;
const failure = (error: Error) => `${error.constructor.name}: ${error.message.split(" ")[0]}`;
const long = "größe🦊".repeat(100_000);
await valkey.set(key, "größe\r\n🦊\0");
const results = {
  differing,
  text: await valkey.get(key),
  nothing: await valkey.get("wire:none"),
  empty: await valkey.echo(""),
  number: await valkey.strlen(key),
  nested: await valkey.eval("return {1, {'a', {}, false}, redis.status_reply('OK')}", 0),
  error: await valkey.lpush(key, "x").catch(failure),
  noScript: await valkey.evalsha("0".repeat(40), 0).catch(failure),
  transaction: (
    await valkey
      .multi()
      .set(key, Buffer.from([0x80, 0xff]))
      .strlen(key)
      .set(key, "ü")
      .lpush(key, "y")
      .get(key)
      .exec()
  )?.map(([error, value]) => (error === null ? value : failure(error))),
  bytes: await valkey.eval("return #ARGV[1]", 0, Buffer.from([0, 0x80, 0xff])),
  mixed: await Promise.all([
    valkey.eval("return #ARGV[1]", 0, Buffer.alloc(300, 0xfe)),
    valkey.echo("größe🦊"),
    valkey.echo("ascii"),
    valkey.eval("return {#ARGV[1], ARGV[2]}", 0, Buffer.from([0xc3]), "ü"),
  ]),
  isLongWhole: (await valkey.echo(long)) === long,
  together: await Promise.all(Array.from({ length: 200 }, async (_, i) => Number(await valkey.echo(`${i}`)) === i)),
};
await valkey.del(key);
console.log(JSON.stringify({ ...results, together: results.together.every(Boolean) }));
valkey.disconnect();
