/**
 * What the command says, and how: for people, or as JSON for programs. Results go to stdout, all else to stderr.
 */
import { createInterface } from "node:readline/promises";
import { printable, printableJson } from "../runtime/printable.ts";

export { printable } from "../runtime/printable.ts";

type Env = Readonly<Record<string, string | undefined>>;
type Colour = "red" | "green" | "yellow" | "dim" | "bold";

const CODES: Readonly<Record<Colour, number>> = { bold: 1, dim: 2, red: 31, green: 32, yellow: 33 };
const BAR_WIDTH = 30; // characters

export interface Terminal {
  /** One JSON document a line instead of text. */
  readonly isJson: boolean;
  /** Whether somebody is there who can be asked. */
  readonly isInteractive: boolean;
  /** Columns, when it is a terminal that shows stdout. */
  readonly columns: number | undefined;
  /** A line for people; nothing with `--json`. What is in it from others does nothing to the terminal: it is escaped. */
  print(line?: string): void;
  /** A document for programs; nothing without `--json`. */
  printJson(document: unknown): void;
  /** A remark on stderr. */
  warn(text: string): void;
  /** The same text, in colour where that is seen. */
  paint(text: string, ...colours: Colour[]): string;
  /** Rows with their columns below each other; the first row is the heading. */
  printTable(rows: readonly (readonly string[])[]): void;
  /** Draw how far it has come, where that is seen; `step` is one more, or so many; `done` takes it away. */
  progress(total: number): { step(count?: number): void; done(): void };
  /** Ask for a yes. */
  confirm(question: string): Promise<boolean>;
}

export function createTerminal({ json: isJson = false }: { json?: boolean | undefined }, env: Env): Terminal {
  const { stdin, stdout, stderr } = process;
  const hasColours = stdout.isTTY && !env.NO_COLOR && env.TERM !== "dumb";
  const print = (line = "") => {
    if (!isJson) stdout.write(`${withoutSurprises(line, hasColours)}\n`);
  };
  return {
    isJson,
    isInteractive: !isJson && stdin.isTTY && stderr.isTTY,
    columns: stdout.isTTY ? stdout.columns : undefined,
    print,
    printJson(document) {
      if (isJson) stdout.write(`${printableJson(JSON.stringify(document))}\n`);
    },
    warn(text) {
      stderr.write(isJson ? `${printableJson(JSON.stringify({ warning: text }))}\n` : `fluxhook: ${printable(text)}\n`);
    },
    paint(text, ...colours) {
      if (!hasColours || isJson) return text;
      return colours.reduce((painted, colour) => `\x1b[${CODES[colour]}m${painted}\x1b[0m`, text);
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
          count = Math.min(total, count + more); // what is counted may have grown since
          draw();
        },
        done: () => void stderr.write("\r\x1b[K"),
      };
    },
    async confirm(question) {
      const lines = createInterface({ input: stdin, output: stderr });
      const answer = await lines.question(`${printable(question)} [y/N] `);
      lines.close();
      return /^y(es)?$/i.test(answer.trim());
    },
  };
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: they take no room
const ESCAPES = /\x1b\[\d+m/g;

/** Pad every column but the last to its widest cell; colours take no room. */
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

/** A text in which only our own colours and line breaks act: a command that forgets to escape a name prints it escaped all the same. */
function withoutSurprises(text: string, hasColours: boolean): string {
  const parts = text.split(hasColours ? OWN_COLOURS : /(\n)/);
  return parts.map((part, index) => (index % 2 === 1 ? part : printable(part))).join("");
}
