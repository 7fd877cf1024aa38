/**
 * Files of the system that say how names are looked up, read again when they change; and the hosts file's form.
 */
import { readFileSync, statSync } from "node:fs";
import { type Address, literalOf } from "./address.ts";

const LOOK_EVERY_MS = 1000; // 1 s

/**
 * Make a function that gives a file as parsed, and reads it again when it has changed; it looks at most once a second.
 *
 * A file that is missing is an empty one; while it cannot be read, what it last said holds.
 */
export function followFile<T>(path: string, parse: (text: string) => T, now = () => performance.now()): () => T {
  let lookedAt = Number.NEGATIVE_INFINITY;
  let version = "";
  let parsed = parse("");
  return () => {
    if (now() - lookedAt < LOOK_EVERY_MS) return parsed;
    lookedAt = now();
    try {
      const found = versionOf(path);
      if (found !== version) parsed = parse(found === "" ? "" : readFileSync(path, "latin1"));
      version = found;
    } catch {
      // no permission, no file descriptor: it is read at the next look
    }
    return parsed;
  };
}

/** When it was changed, and which file it is: an editor may put another in its place. Empty when there is none. */
function versionOf(path: string): string {
  const found = statSync(path, { throwIfNoEntry: false });
  return found === undefined ? "" : `${found.mtimeMs} ${found.size} ${found.ino}`;
}

/** Read a hosts file: all addresses of each name and alias, in lower case; IPv4 first, else in the file's order. */
export function parseHosts(text: string): ReadonlyMap<string, readonly Address[]> {
  const hosts = new Map<string, Address[]>();
  for (const line of text.split("\n")) {
    const [address = "", ...names] = line.replace(/#.*$/, "").trim().split(/\s+/);
    if (literalOf(address) === undefined) continue;
    for (const name of new Set(names.map((each) => each.toLowerCase()))) {
      const known = hosts.get(name) ?? [];
      if (!known.some((each) => each.address === address)) {
        hosts.set(name, [...known, { address, family: address.includes(":") ? 6 : 4 }]);
      }
    }
  }
  for (const addresses of hosts.values()) addresses.sort((a, b) => a.family - b.family);
  return hosts;
}
