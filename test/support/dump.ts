/**
 * Everything that a Valkey holds, as text: for tests of what must not be in it any more.
 */
import type { Redis } from "ioredis";

/** The names of all keys, each with all that is stored under it, one text a key, in a fixed order. */
export async function dumpAll(client: Redis): Promise<string[]> {
  const texts: string[] = [];
  for await (const keys of client.scanStream({ count: 1_000 })) {
    for (const key of keys as string[]) texts.push(`${key} ${JSON.stringify(await read(client, key))}`);
  }
  return texts.sort();
}

async function read(client: Redis, key: string): Promise<unknown> {
  switch (await client.type(key)) {
    case "string":
      return await client.get(key);
    case "hash":
      return Object.entries(await client.hgetall(key)).sort(); // Valkey may change their order by itself
    case "list":
      return await client.lrange(key, 0, -1);
    case "set":
      return await client.smembers(key);
    case "zset":
      return await client.zrange(key, "0", "-1");
    case "stream":
      return await client.xrange(key, "-", "+");
  }
}
