/**
 * The benches run, in forms too small for their figures to mean anything, so that they do not rot.
 */
import { describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { median, percentile } from "../bench/clock.ts";
import { buildTable, formatNumber } from "../bench/report.ts";
import { buildSizing } from "../bench/sizing.ts";

const root = join(import.meta.dir, "..");
const PATIENCE_MS = 150_000; // they start some forty processes in all, beside whatever else runs

/** Start a program with a directory of its own for what it leaves behind. */
function start(program: string, args: string) {
  const directory = mkdtempSync(join(tmpdir(), "fluxhook-bench-test-"));
  const child = Bun.spawn([process.execPath, `bench/${program}.ts`, ...args.split(" ")], {
    cwd: root,
    env: { PATH: process.env.PATH, TMPDIR: directory },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const [output, errors] = [child.stdout, child.stderr].map((stream) => new Response(stream).text());
  return { child, directory, output: output as Promise<string>, errors: errors as Promise<string> };
}

/** Run one to its end; the rows of its first table, without head and rule. */
async function rowsOf(program: string, args: string): Promise<string[][]> {
  const { child, directory, output, errors } = start(program, args);
  const code = await child.exited;
  expect({ code, errors: await errors, left: readdirSync(directory) }).toEqual({ code: 0, errors: "", left: [] });
  rmSync(directory, { recursive: true });
  const text = await output;
  expect(text).toContain(`Bun ${Bun.version}`);
  expect(text).not.toContain(directory);
  const table = text.split("\n\n").find((part) => part.startsWith("| ")) ?? "";
  const [, , ...rows] = table.trimEnd().split("\n");
  return rows.map((row) => row.slice(2, -2).split(" | "));
}

/** Processes that work in a directory. */
function processesIn(directory: string): string[] {
  return readdirSync("/proc").filter((pid) => {
    try {
      return /^\d+$/.test(pid) && readlinkSync(`/proc/${pid}/cwd`).startsWith(directory);
    } catch {
      return false; // it has ended
    }
  });
}

describe("each program in a tiny form", () => {
  test.concurrent(
    "deliver compares all four workers",
    async () => {
      const rows = await rowsOf("deliver", "--jobs 2000 --warm-up 20 --concurrency 8 --endpoints 4 --rounds 1");
      expect(rows.map((row) => row.slice(0, 4))).toEqual(
        ["noop", "plain", "raw", "fluxhook"].map((kind) => [kind, "URL", "8", "4"]),
      );
      for (const [, , , , perSecond = ""] of rows) expect(Number(perSecond.replaceAll(",", ""))).toBeGreaterThan(0);
    },
    PATIENCE_MS,
  );

  test.concurrent(
    "latency receives every event",
    async () => {
      const rows = await rowsOf("latency", "--rates 50 --seconds 1 --warm-up 1 --rounds 1 --kinds fluxhook");
      expect(rows.map((row) => row.slice(0, 4))).toEqual([["50", "fluxhook", "50", "50"]]);
    },
    PATIENCE_MS,
  );

  test.concurrent(
    "tls reaches every host, with each client",
    async () => {
      const rows = await rowsOf("tls", "--hosts 2 --requests 20 --concurrency 2 --rounds 1");
      expect(rows.map(([hosts, client, , , , , , failed]) => [hosts, client, failed])).toEqual([
        ["2", "fetch", "0"],
        ["2", "sender", "0"],
        ["2", "sender-names", "0"],
      ]);
    },
    PATIENCE_MS,
  );

  test.concurrent(
    "deliver and isolation leave the endpoints to the registry",
    async () => {
      const tiny = "--jobs 2000 --warm-up 20 --concurrency 8 --endpoints 4 --rounds 1 --kinds fluxhook";
      for (const by of ["id", "user"]) {
        const [[kind, , , perSecond = ""] = []] = await rowsOf("deliver", `${tiny} --by ${by}`);
        expect([by, kind, Number(perSecond.replaceAll(",", "")) > 0]).toEqual([by, "fluxhook", true]);
      }
      const short = "--seconds 1 --warm-up 0 --only broadcast: --size 1 --kinds fluxhook --by user";
      for (const [, , sent, arrived] of await rowsOf("isolation", short)) {
        expect([Number(sent) > 0, arrived]).toEqual([true, sent as string]);
      }
    },
    PATIENCE_MS,
  );

  test.concurrent(
    "fan-out compares events for several endpoints with as many jobs",
    async () => {
      const rows = await rowsOf("fan-out", "--endpoints 1,3 --jobs 600 --warm-up 30 --concurrency 8 --rounds 1");
      expect(rows.map(([endpoints, jobs]) => [endpoints, jobs])).toEqual(
        ["1", "3"].flatMap((endpoints) => ["as many inline", "one event"].map((jobs) => [endpoints, jobs])),
      );
    },
    PATIENCE_MS,
  );

  test.concurrent(
    "isolation delivers what is healthy",
    async () => {
      const rows = await rowsOf(
        "isolation",
        "--seconds 1 --warm-up 0 --only silent,hot,broadcast: --size 1 --kinds fluxhook",
      );
      expect(rows.map(([scenario = "", worker]) => [scenario.split(" ", 1).join(), worker])).toEqual([
        ["broadcast:", "fluxhook"],
        ["a", "fluxhook"],
        ["hot:", "fluxhook"],
      ]);
      for (const [, , sent, arrived] of rows) expect([Number(sent) > 0, arrived]).toEqual([true, sent as string]);
    },
    PATIENCE_MS,
  );

  test.concurrent(
    "soak looks at the end and when all is idle",
    async () => {
      const rows = await rowsOf("soak", "--jobs 200 --hosts 2 --endpoints 8 --idle 0");
      expect(rows.slice(-2).map(([when, deliveries]) => [when, deliveries])).toEqual([
        ["end", "200"],
        ["0 s idle", "200"],
      ]);
    },
    PATIENCE_MS,
  );

  test.concurrent(
    "scale runs workers side by side",
    async () => {
      const rows = await rowsOf("scale", "--workers 2 --jobs 2000 --warm-up 20 --concurrency 8 --rounds 1");
      expect(rows.map(([workers]) => workers)).toEqual(["2"]);
    },
    PATIENCE_MS,
  );

  test.concurrent(
    "scale spreads a backlog over the shards of a cluster",
    async () => {
      const rows = await rowsOf("scale", "--shards 1,3 --jobs 2000 --warm-up 20 --concurrency 8 --rounds 1 --idle 0");
      expect(rows.map(([shards, , ratio]) => [shards, Number(ratio) > 0])).toEqual([
        ["1", true],
        ["3", true],
      ]);
    },
    PATIENCE_MS,
  );
});

test(
  "all of them report into one file",
  async () => {
    const directory = mkdtempSync(join(tmpdir(), "fluxhook-bench-test-"));
    const file = join(directory, "report.md");
    const args = `--out ${file} --only tls -- --hosts 1 --requests 20 --rounds 1 --clients fetch`;
    const { child, errors, directory: own } = start("run", args);
    expect([await child.exited, await errors]).toEqual([0, expect.stringContaining("written to")]);
    expect(readFileSync(file, "utf8")).toMatch(/^# Benchmarks\n\n## TLS\n(.|\n)*\n\| 1 \| fetch \|/);
    for (const path of [directory, own]) rmSync(path, { recursive: true });
  },
  PATIENCE_MS,
);

test(
  "a bench that is interrupted leaves nothing behind",
  async () => {
    const { child, directory, output, errors } = start(
      "deliver",
      "--jobs 8000 --warm-up 100 --kinds fluxhook --endpoints 4",
    );
    while (processesIn(directory).length < 3) await Bun.sleep(20); // Valkey, receiver, worker
    child.kill("SIGINT");
    expect([await child.exited, await output, await errors]).toEqual([130, "", ""]);
    expect([processesIn(directory), readdirSync(directory)]).toEqual([[], []]);
    rmSync(directory, { recursive: true });
  },
  PATIENCE_MS,
);

test("an argument that makes no sense is refused before anything starts", async () => {
  const { child, directory, errors } = start("deliver", "--jobs many");
  expect([await child.exited, await errors]).toEqual([
    2,
    'expected --jobs to be a whole number from 1 to 1000000, got "many"\n',
  ]);
  expect(readdirSync(directory)).toEqual([]);
  rmSync(directory, { recursive: true });
});

test.each([
  ["--help", 0, ""],
  ["--second 3", 2, "Unknown option '--second'"],
  ["--seconds", 2, "Option '--seconds <value>' argument missing"],
  ["fast", 2, "Unexpected argument 'fast'"],
])("isolation.ts %s ends with %i and lists what there is", async (args, code, reason) => {
  const { child, directory, output, errors } = start("isolation", args);
  const [text, problems] = await Promise.all([output, errors]);
  expect([await child.exited, problems.split("\n", 1)[0]]).toEqual([code, reason]);
  expect([text.includes("\n  --rounds 1\n"), problems.includes("\n  --rounds 1\n")]).toEqual([code === 0, code === 2]);
  expect(readdirSync(directory)).toEqual([]);
  rmSync(directory, { recursive: true });
});

describe("figures", () => {
  test("percentiles and medians are values of the list, or between two", () => {
    expect(percentile([4, 1, 3, 2], 0.5)).toBe(2);
    expect(percentile([4, 1, 3, 2], 0.99)).toBe(4);
    expect(percentile([], 0.5)).toBeNaN();
    expect(median([5, 1, 3])).toBe(3);
    expect(median([4, 1, 3, 2])).toBe(2.5);
  });

  test("numbers keep three digits", () => {
    const numbers = [0.1234, 1.234, 12.34, 123.4, 1234.5, Number.NaN, Number.POSITIVE_INFINITY];
    expect(numbers.map(formatNumber)).toEqual(["0.12", "1.23", "12.3", "123", "1,235", "–", "∞"]);
  });

  test("a table aligns columns of numbers to the right", () => {
    const table = buildTable(["worker", "µs"], [["noop", "61"], ["raw", "–"]]); // biome-ignore format: rows
    expect(table).toBe("| worker | µs |\n| --- | ---: |\n| noop | 61 |\n| raw | – |");
  });

  test("sizing marks what was measured, and counts workers and queues at 70 % of a core", () => {
    const sizing = buildSizing([{ workers: 1, perSecond: 3_000, workerMicros: 250, valkeyMicros: 100 }], 2);
    expect(sizing).toContain("| 3,000 | 1 | 0.75 | 0.30 | 1 | measured: the most that 2 cores gave |");
    expect(sizing).toContain("| 10,000 | 4 | 2.50 | 1.00 | 2 | extrapolated |");
    expect(sizing).toContain("delivers 2,800 a second");
  });
});
