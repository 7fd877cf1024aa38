/**
 * Streams for a command that runs within a test's process: nothing to read, and what it writes.
 */
import { Readable } from "node:stream";
import type { Streams } from "../../src/cli/terminal.ts";

/** Make such streams. `written` grows as the command writes. */
export function captureStreams(): { readonly streams: Streams; readonly written: { out: string; err: string } } {
  const written = { out: "", err: "" };
  const into = (name: "out" | "err") => ({
    write(text: string | Uint8Array) {
      written[name] += text;
      return true;
    },
  });
  return { streams: { stdin: Readable.from([]), stdout: into("out"), stderr: into("err") }, written };
}
