/**
 * The command's output: text, or JSON for programs. Results go to stdout, everything else to stderr.
 */
import { createInterface } from "node:readline/promises";
import { printable, printableJson } from "../runtime/printable.ts";

export { printable } from "../runtime/printable.ts";

type Env = Readonly<Record<string, string | undefined>>;
type Color = "red" | "green" | "yellow" | "dim" | "bold";

const CODES: Readonly<Record<Color, number>> = { bold: 1, dim: 2, red: 31, green: 32, yellow: 33 };
const BAR_WIDTH = 30; // characters

export interface Terminal {
  /** Print one JSON document per line instead of text. */
  readonly isJson: boolean;
  /** Whether there is a person to ask for confirmation. */
  readonly isInteractive: boolean;
  /** Width in columns when stdout is a terminal. */
  readonly columns: number | undefined;
  /** Print a line; nothing with `--json`. Control characters in it are escaped. */
  print(line?: string): void;
  /** Print a JSON document; nothing without `--json`. */
  printJson(document: unknown): void;
  /** Print a JSON document, with and without `--json`: for output that programs read. */
  writeJson(document: unknown): void;
  /** Print a warning on stderr. */
  warn(text: string): void;
  /** The text in color, if the terminal supports it. */
  paint(text: string, ...colors: Color[]): string;
  /** Print rows with aligned columns; the first row is the heading. */
  printTable(rows: readonly (readonly string[])[]): void;
  /** Draw a progress bar on a terminal; `step` advances it by `count` (1), `done` removes it. */
  progress(total: number): { step(count?: number): void; done(): void };
  /** Ask a yes/no question; no by default. */
  confirm(question: string): Promise<boolean>;
}

/** Where the command reads and writes: the process's own, or a caller's in place of them. */
export interface Streams {
  readonly stdin: NodeJS.ReadableStream & { readonly isTTY?: boolean };
  readonly stdout: Output;
  readonly stderr: Output;
}

type Output = Pick<NodeJS.WritableStream, "write"> & { readonly isTTY?: boolean; readonly columns?: number };

export function createTerminal(
  { json: isJson = false }: { json?: boolean | undefined },
  env: Env,
  { stdin, stdout, stderr }: Streams = process,
): Terminal {
  const hasColors = stdout.isTTY === true && !env.NO_COLOR && env.TERM !== "dumb";
  const print = (line = "") => {
    if (!isJson) stdout.write(`${escapeForeign(line, hasColors)}\n`);
  };
  const writeJson = (document: unknown) => void stdout.write(`${printableJson(JSON.stringify(document))}\n`);
  return {
    isJson,
    isInteractive: stdin.isTTY === true && stderr.isTTY === true,
    columns: stdout.isTTY ? stdout.columns : undefined,
    print,
    printJson(document) {
      if (isJson) writeJson(document);
    },
    writeJson,
    warn(text) {
      stderr.write(isJson ? `${printableJson(JSON.stringify({ warning: text }))}\n` : `fluxhook: ${printable(text)}\n`);
    },
    paint(text, ...colors) {
      if (!hasColors || isJson) return text;
      return colors.reduce((painted, color) => `\x1b[${CODES[color]}m${painted}\x1b[0m`, text);
    },
    printTable(rows) {
      for (const line of alignColumns(rows)) print(line);
    },
    progress(total) {
      if (isJson || !stderr.isTTY) return { step() {}, done() {} };
      let count = 0;
      const draw = () => {
        const filled = total === 0 ? BAR_WIDTH : Math.floor((count / total) * BAR_WIDTH);
        stderr.write(`\r[${"#".repeat(filled)}${".".repeat(BAR_WIDTH - filled)}] ${count}/${total}`);
      };
      draw();
      return {
        step(more = 1) {
          count = Math.min(total, count + more); // the total may have grown since it was counted
          draw();
        },
        done: () => void stderr.write("\r\x1b[K"),
      };
    },
    async confirm(question) {
      const lines = createInterface({ input: stdin, output: stderr as NodeJS.WritableStream });
      const answer = await lines.question(`${printable(question)} [y/N] `);
      lines.close();
      return /^y(es)?$/i.test(answer.trim());
    },
  };
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: color codes have no width
const ESCAPES = /\x1b\[\d+m/g;

/** Pad every column but the last to its widest cell; color codes have no width. */
export function alignColumns(rows: readonly (readonly string[])[]): string[] {
  const widthOf = (cell: string) => cell.replace(ESCAPES, "").length;
  const widths = rows.reduce<number[]>(
    (widest, row) => row.map((cell, i) => Math.max(widest[i] ?? 0, widthOf(cell))),
    [],
  );
  return rows.map((row) =>
    row
      .map((cell, i) => (i === row.length - 1 ? cell : cell + " ".repeat((widths[i] as number) - widthOf(cell))))
      .join("  ")
      .trimEnd(),
  );
}

const OWN_COLOURS = new RegExp(`(\\n|\\x1b\\[(?:0|${Object.values(CODES).join("|")})m)`);

/** Escape everything but our own colors and line breaks, in case a command forgets to escape a name. */
function escapeForeign(text: string, hasColors: boolean): string {
  const parts = text.split(hasColors ? OWN_COLOURS : /(\n)/);
  return parts.map((part, index) => (index % 2 === 1 ? part : printable(part))).join("");
}
