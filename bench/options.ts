/**
 * What stands on a bench's command line. What is not as expected ends the program with 2, before anything is started.
 */
import { basename } from "node:path";
import { type ParseArgsOptionsConfig, parseArgs } from "node:util";
import type { Kind } from "./rig.ts";

type Values<T extends ParseArgsOptionsConfig> = ReturnType<typeof parseArgs<{ options: T }>>["values"];

/**
 * The values of a bench's options, described as for `parseArgs`, and what stands behind them. With `--help` it prints them and
 * their defaults, and ends the program.
 */
export function readOptions<T extends ParseArgsOptionsConfig>(
  options: T,
  allowPositionals = false,
): { values: Values<T>; positionals: string[] } {
  try {
    const all = { ...options, help: { type: "boolean" } } as const;
    const { values, positionals } = parseArgs({ options: all, allowPositionals });
    if (!("help" in values)) return { values: values as Values<T>, positionals };
  } catch (error) {
    const [what] = (error as Error).message.split(". "); // what follows is about positionals
    return refuse(`${what}\n${describeOptions(options)}`);
  }
  console.log(describeOptions(options));
  process.exit(0);
}

function describeOptions(options: ParseArgsOptionsConfig): string {
  const lines = Object.entries(options).map(
    ([name, { type, default: given = "" }]) =>
      `  --${name}${type === "boolean" ? "" : ` ${given === "" || Array.isArray(given) ? "…" : given}`}`,
  );
  return `Usage: bun bench/${basename(process.argv[1] ?? "")} [options]; by default\n\n${lines.join("\n")}\n\nWhat each is for stands at the head of that file.`;
}

/** Whole numbers, comma-separated, each from 1 to `max`. */
export function parseNumbers(name: string, text: string, max: number): number[] {
  const values = text.split(",").map(Number);
  if (values.every((value) => Number.isInteger(value) && value >= 1 && value <= max)) return values;
  return refuse(`expected --${name} to be whole numbers from 1 to ${max}, comma-separated, got "${text}"`);
}

/** One whole number from `min` to `max`. */
export function parseNumber(name: string, text: string, max: number, min = 1): number {
  const value = text === "" ? Number.NaN : Number(text);
  if (Number.isInteger(value) && value >= min && value <= max) return value;
  return refuse(`expected --${name} to be a whole number from ${min} to ${max}, got "${text}"`);
}

/** Some of the known kinds, of workers for example, comma-separated. */
export function parseKinds<K extends string = Kind>(name: string, text: string, known: readonly K[]): K[] {
  const kinds = text.split(",") as K[];
  if (kinds.every((kind) => known.includes(kind))) return kinds;
  return refuse(`expected --${name} to be some of ${known.join(",")}, got "${text}"`);
}

/** Settings for the workers, as `NAME=value`. */
export function parseSettings(pairs: readonly string[]): Record<string, string> {
  const unlike = pairs.find((pair) => !/^[A-Z_]+=/.test(pair));
  if (unlike !== undefined) return refuse(`expected --set to be NAME=value, got "${unlike}"`);
  return Object.fromEntries(pairs.map((pair) => pair.split(/=(.*)/s, 2)));
}

function refuse(reason: string): never {
  console.error(reason);
  process.exit(2);
}
