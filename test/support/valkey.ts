/**
 * One throwaway Valkey for a whole test process, however many files it runs.
 */
import { startValkey, type ThrowawayValkey } from "../../src/dev/valkey.ts";

const shared = globalThis as { fluxhookTestValkey?: Promise<ThrowawayValkey> };

/** Where it listens. It ends with the process; use queue names and user ids of your own. */
export async function testValkeyUrl(): Promise<string> {
  shared.fluxhookTestValkey ??= startValkey();
  return (await shared.fluxhookTestValkey).url;
}
