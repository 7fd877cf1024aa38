/**
 * Every bench in its short form, one after the other: about five minutes, and a report in Markdown.
 *
 *   npm run bench [-- [--out bench/results/latest.md] [--only deliver,tls] [--full] [-- <arguments for each>]]
 *
 * `--full` runs them as they are meant for figures that are published: about 50 minutes on two cores.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, relative, resolve } from "node:path";
import { parseKinds, readOptions } from "./options.ts";

/** Arguments of each program in the short form; the full form has its defaults. */
const SHORT: Readonly<Record<string, string>> = {
  deliver: "--jobs 10000 --warm-up 10000 --concurrency 64 --endpoints 40 --rounds 2",
  latency: "--seconds 4 --warm-up 2 --rounds 1",
  tls: "--requests 3000 --rounds 1",
  isolation: "--short",
  scale: "--jobs 5000 --warm-up 2000 --rounds 1",
  soak: "--jobs 30000 --minutes 1 --idle 6",
};
const ROOT = resolve(import.meta.dir, "..");

const { values, positionals: more } = readOptions(
  {
    out: { type: "string", default: "bench/results/latest.md" },
    only: { type: "string", default: Object.keys(SHORT).join(",") },
    full: { type: "boolean", default: false },
  },
  true,
);
const names = parseKinds("only", values.only, Object.keys(SHORT));
const out = resolve(ROOT, values.out);

let current: Bun.Subprocess | undefined;
let signalled: NodeJS.Signals | undefined;
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.on(signal, () => {
    signalled = signal;
    current?.kill(signal); // it ends what it started, and then we end
  });
}

const startedAt = performance.now();
const parts = ["# Benchmarks\n"];
let failed = 0;
for (const name of names) {
  const command = [`bench/${name}.ts`, ...(values.full ? [] : (SHORT[name] as string).split(" ")), ...more];
  console.error(`bench: ${command.join(" ")}`);
  const child = Bun.spawn([process.execPath, ...command], {
    cwd: ROOT,
    stdio: ["ignore", "pipe", "inherit"],
    detached: true, // out of reach of the terminal's Ctrl-C: it gets one signal, ours
  });
  current = child;
  const text = await new Response(child.stdout).text();
  const code = await child.exited;
  if (signalled) break;
  if (code !== 0) failed += 1;
  const heading = text === "" ? `## ${name}\n` : text.trimEnd();
  const end = code === 0 ? "" : `\n\n**Ended with ${code}.**`;
  parts.push(`${heading}${end}\n\n\`bun ${command.join(" ")}\`\n`);
  console.log(`${parts.at(-1)}`);
}
if (signalled) process.exit(signalled === "SIGINT" ? 130 : 143);

const minutes = ((performance.now() - startedAt) / 60_000).toFixed(1);
mkdirSync(dirname(out), { recursive: true });
writeFileSync(out, `${parts.join("\n")}\nTook ${minutes} min in all.\n`);
console.error(`bench: ${minutes} min, written to ${relative(process.cwd(), out)}`);
process.exit(failed === 0 ? 0 : 1);
