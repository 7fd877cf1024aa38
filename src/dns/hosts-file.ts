/**
 * Follows system files that configure name resolution, and parses the hosts file.
 */
import { readFileSync, statSync } from "node:fs";
import { type Address, literalOf } from "./address.ts";

const CHECK_EVERY_MS = 1000; // 1 s

/**
 * Create a function that returns a file's parsed content, and re-reads the file when it changes; it checks at most once a second.
 *
 * A missing file counts as empty. While a file cannot be read, its last content stays in effect.
 */
export function followFile<T>(path: string, parse: (text: string) => T, now = () => performance.now()): () => T {
  let checkedAt = Number.NEGATIVE_INFINITY;
  let version = "";
  let parsed = parse("");
  return () => {
    if (now() - checkedAt < CHECK_EVERY_MS) return parsed;
    checkedAt = now();
    try {
      const found = versionOf(path);
      if (found !== version) parsed = parse(found === "" ? "" : readFileSync(path, "latin1"));
      version = found;
    } catch {
      // no permission, or out of descriptors: try again at the next check
    }
    return parsed;
  };
}

/** Identifies a file's content: includes the inode, since editors may replace the file. Empty when it does not exist. */
function versionOf(path: string): string {
  const found = statSync(path, { throwIfNoEntry: false });
  return found === undefined ? "" : `${found.mtimeMs} ${found.size} ${found.ino}`;
}

/** Parse a hosts file into the addresses of each name and alias, in lower case. IPv4 comes first, otherwise the file's order. */
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
