/**
 * The least rights of docs/operations.md, as Valkey gets them, and whom it refused what.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Redis } from "ioredis";

/** The lines of the recipe: each user with its rules. */
export const recipe = readFileSync(join(import.meta.dir, "../../docs/operations.md"), "utf8")
  .split("\n")
  .filter((line) => line.startsWith("ACL SETUSER "))
  .map((line) => line.split(" ").slice(2) as [user: string, ...rules: string[]]);

/** Make the recipe's users. */
export async function applyRecipe(admin: Redis): Promise<void> {
  for (const [user, ...rules] of recipe) await admin.acl("SETUSER", user, ...rules);
}

/** A Valkey's URL for one of the recipe's users. */
export const urlFor = (url: string, name: string): string => url.replace("//", `//fluxhook-${name}:of-the-${name}@`);

/** Who was refused what, of ACL LOG. */
export async function readRefusals(admin: Redis): Promise<string[]> {
  const log = (await admin.call("ACL", "LOG")) as unknown[][];
  return log.map((entry) => {
    const field = (name: string) => String(entry[entry.indexOf(name) + 1]);
    return `${field("username")}: ${field("reason")} ${field("object")}`;
  });
}
