/**
 * What a setting is. Pure.
 */
import type { z } from "zod";

/** One setting: its name, allowed values and meaning. */
export interface Setting<T> {
  readonly name: string;
  /** The default as written in the environment; empty for none. */
  readonly default: string;
  /** Completes "expected NAME to be …". */
  readonly expected: string;
  readonly meaning: string;
  readonly schema: z.ZodType<T, string>;
  /** A secret's value is never printed. */
  readonly isSecret: boolean;
  /** What is the default, as one would write it, where that depends on another setting, which it reads as a number. */
  readonly derive?: ((read: (key: "concurrency") => number) => string) | undefined;
}

/** Describe a setting. */
export function setting<T>(
  name: string,
  fallback: string,
  schema: z.ZodType<T, string>,
  expected: string,
  meaning: string,
  { isSecret = false, derive }: { isSecret?: boolean; derive?: Setting<T>["derive"] } = {},
): Setting<T> {
  return { name, default: fallback, schema, expected, meaning, isSecret, derive };
}
