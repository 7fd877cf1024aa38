/**
 * `bun src/dev/key.ts`: print a new key for WEBHOOK_SECRET_KEYS.
 */
import { createKey } from "../seal.ts";

process.stdout.write(`${createKey()}\n`);
