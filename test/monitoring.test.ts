import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Queue } from "bullmq";
import { type Receiver, startReceiver } from "../src/dev/receiver.ts";
import { readAttemptTally } from "../src/log/attempt-tally.ts";
import { createLogger } from "../src/runtime/logger.ts";
import { connectValkey, type Valkey } from "../src/valkey/connection.ts";
import { startWorkerProcess, type WorkerProcess } from "./support/process.ts";
import { eventually, jobData } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const root = join(import.meta.dir, "..");
const read = (name: string) => Bun.file(join(root, "docs", name)).text();

interface Panel {
  readonly id: number;
  readonly type: string;
  readonly title: string;
  readonly description?: string;
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
  readonly datasource?: { readonly uid: string };
  readonly targets?: readonly { readonly expr: string }[];
  readonly fieldConfig?: { readonly defaults: { readonly unit?: string } };
}
interface Rule {
  readonly alert: string;
  readonly expr: string;
  readonly for: string;
  readonly labels: { readonly severity: string };
  readonly annotations: { readonly summary: string; readonly description: string; readonly runbook_url: string };
}

const dashboard = JSON.parse(await read("monitoring/dashboard.json"));
const panels: Panel[] = dashboard.panels;
const charts = panels.filter(({ type }) => type !== "row");
const alerts = Bun.YAML.parse(await read("monitoring/alerts.yml")) as { groups: { rules: Rule[] }[] };
const rules = alerts.groups.flatMap((group) => group.rules);
const scrape = Bun.YAML.parse(await read("monitoring/prometheus.yml")) as {
  rule_files: string[];
  scrape_configs: { job_name: string }[];
};

const PROMQL =
  /^(sum|max|min|rate|increase|changes|absent|vector|histogram_quantile|label_values|by|on|or|and|offset|le|job|state|outcome|event|reason|range)$/;

/** The metrics that an expression asks for: the names outside of braces, brackets and quotes. */
function metricsOf(expr: string): string[] {
  const bare = expr
    .replaceAll(/\{[^}]*\}|\[[^\]]*\]|"[^"]*"|\b\d[\w.]*/g, " ")
    .replaceAll(/\b(by|on)\s*\([^)]*\)/g, " ");
  return (bare.match(/[a-z_:][\w:]*/gi) ?? []).filter((name) => !PROMQL.test(name));
}

const expressions: [where: string, expr: string][] = [
  ...charts.flatMap(({ title, targets }) => (targets ?? []).map(({ expr }): [string, string] => [title, expr])),
  ...rules.map(({ alert, expr }): [string, string] => [alert, expr]),
  ["annotation", dashboard.annotations.list[1].expr],
  ["variable", dashboard.templating.list[1].definition],
];

/** What a worker that has had something of everything and a board that has been looked at show of themselves. */
const served = { names: new Set<string>(), labels: new Map<string, Set<string>>() };
let worker: WorkerProcess;
let customer: Receiver;
let board: Bun.Subprocess;
const output = join(tmpdir(), `fluxhook-board-${crypto.randomUUID()}.log`);
let queue: Queue;
let valkey: Valkey;

function learn(text: string): void {
  for (const [, name] of text.matchAll(/^# TYPE (\S+) /gm)) served.names.add(name as string);
  for (const [, name, labels = ""] of text.matchAll(/^([a-z_]\w*)(?:\{(.*)\})? \S+$/gm)) {
    served.names.add(name as string);
    const known = served.labels.get(name as string) ?? new Set();
    for (const [, label] of labels.matchAll(/(\w+)="/g)) known.add(label as string);
    served.labels.set(name as string, known);
  }
}

beforeAll(async () => {
  const valkeyUrl = await testValkeyUrl();
  const name = `monitoring-${crypto.randomUUID()}`;
  customer = await startReceiver();
  worker = startWorkerProcess({ VALKEY_URL: valkeyUrl, WEBHOOK_QUEUE: name });
  board = Bun.spawn([process.execPath, join(root, "src/board.ts")], {
    env: { PATH: process.env.PATH ?? "", VALKEY_URL: valkeyUrl, WEBHOOK_QUEUE: name, BOARD_PORT: "0" },
    stdio: ["ignore", Bun.file(output), "ignore"],
  });
  queue = new Queue(name, { connection: { url: valkeyUrl } });
  valkey = connectValkey(valkeyUrl, "test:monitoring", createLogger("silent").logger);
  await queue.add("file.created", jobData(customer.url()));
  await queue.add("file.created", jobData("http://10.0.0.1/"));
  await queue.add("file.created", {});
  await worker.line("delivery.attempted", 2);
  const metrics = await eventually(
    async () => await (await fetch(await worker.url("/metrics"))).text(),
    (text) => text.includes("fluxhook_rejected_jobs_total 1"),
  );
  learn(metrics);
  const said = await eventually(
    () => Bun.file(output).text(),
    (text) => text.includes("board.ready") && text.endsWith("\n"),
  );
  const { url } = JSON.parse(said.split("\n").find((line) => line.includes("board.ready")) as string);
  learn(await (await fetch(`${url}/metrics`)).text());
}, 20_000);

afterAll(async () => {
  board.kill();
  await Promise.all([worker.stop(), customer.stop(), queue.close(), board.exited]);
  valkey.disconnect();
  rmSync(output);
});

test.each(expressions)("every metric in %s is served by a worker or a board", (_, expr) => {
  const names = metricsOf(expr);
  expect(names).not.toEqual([]);
  // `up` is Prometheus' own, for each of its targets.
  expect(names.filter((name) => name !== "up" && !served.names.has(name))).toEqual([]);
});

test.each(expressions)("every label that %s selects by is one of its metric", (_, expr) => {
  for (const [, name, selectors] of expr.matchAll(/([a-z_]\w*)\{([^}]*)\}/g)) {
    const labels = [...(selectors as string).matchAll(/(\w+)\s*(?:=~|!=|!~|=)/g)].map(([, label]) => label as string);
    expect(labels).toContain("job");
    const known = served.labels.get(name as string) ?? new Set();
    if (name !== "fluxhook_parked_jobs_total") {
      expect(labels.filter((label) => label !== "job" && !known.has(label))).toEqual([]);
    }
  }
});

/** Gauges that each shard of a queue has its part of, and those of which the worst shard's is meant. */
const PARTS = /(\w+)(?: by \(([^)]*)\))? ?\(fluxhook_(?:jobs|recent_jobs|stray_jobs)\{/g;
const WORST = ["FluxhookFailedSetFull"]; // each shard keeps that many

test.each(expressions)(
  "%s adds up the shards of a queue, and takes each once from the processes that tell of it",
  (where, expr) => {
    for (const [, operator, by = ""] of expr.matchAll(PARTS)) {
      if (WORST.includes(where)) expect([operator, by]).toEqual(["max", ""]);
      else expect([operator, by.split(", ")]).toEqual(["max", expect.arrayContaining(["shard"])]);
    }
  },
);

test("a worker's attempts are tallied for the board", async () => {
  const tally = await eventually(
    () => readAttemptTally(valkey, queue.name, 5, Date.now()),
    ({ made }) => made >= 2,
  );
  expect(tally).toMatchObject({ made: 2, failed: 1 });
});

describe("the dashboard", () => {
  test("is one that Grafana 11 imports as it is: any Prometheus, chosen by a variable", () => {
    expect(dashboard).toMatchObject({ uid: "fluxhook", title: "Fluxhook", schemaVersion: 39 });
    expect(dashboard).not.toHaveProperty("id");
    for (const { title, datasource } of charts) expect(datasource?.uid, title).toMatch(/^\$\{datasource\}$/);
    expect(dashboard.templating.list[0]).toMatchObject({ name: "datasource", type: "datasource", query: "prometheus" });
    expect(new Set(panels.map(({ id }) => id)).size).toBe(panels.length);
  });

  test("explains every panel and gives it a unit", () => {
    for (const { title, description, fieldConfig, type } of charts) {
      expect(description, title).toMatch(/\.$/);
      if (type !== "state-timeline") expect(fieldConfig?.defaults.unit, title).toBeString();
    }
  });

  test("has no panel on another, and none beyond its width", () => {
    for (const [i, { title, gridPos: a }] of panels.entries()) {
      expect(a.x + a.w, title).toBeLessThanOrEqual(24);
      const onTop = panels
        .slice(i + 1)
        .filter(({ gridPos: b }) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h);
      expect(
        onTop.map((panel) => panel.title),
        title,
      ).toEqual([]);
    }
  });
});

describe("the alert rules", () => {
  test("have names of their own, a severity, a duration and something to say", () => {
    expect(new Set(rules.map(({ alert }) => alert)).size).toBe(rules.length);
    for (const { alert, labels, annotations, ...rule } of rules) {
      expect(alert).toMatch(/^Fluxhook[A-Z]/);
      expect(["critical", "warning"]).toContain(labels.severity);
      expect(rule.for).toMatch(/^\d+m$/);
      expect(annotations.summary.length).toBeGreaterThan(10);
      expect(annotations.description).toMatch(/\.$/);
    }
  });

  test("each lead to a section of docs/operations.md, and each alarm there is a rule", async () => {
    const text = await read("operations.md");
    const sections = [...text.matchAll(/^### (Fluxhook\w+)$/gm)].map(([, name]) => name as string);
    expect(sections).toEqual(rules.map(({ alert }) => alert));
    for (const { alert, annotations } of rules) {
      expect(annotations.runbook_url).toBe(`docs/operations.md#${alert.toLowerCase()}`);
    }
  });

  test("ask for jobs that the scrape configuration has", () => {
    const jobs = scrape.scrape_configs.map((config) => config.job_name);
    for (const { expr } of rules) {
      for (const [, operator, value] of expr.matchAll(/job(=~?)"([^"]+)"/g)) {
        const isMatch = (job: string) => (operator === "=" ? job === value : new RegExp(`^(?:${value})$`).test(job));
        expect(jobs.some(isMatch), value).toBe(true);
      }
    }
    expect(scrape.rule_files).toEqual(["alerts.yml"]);
  });
});

test("docs/monitoring/README.md describes each metric of ours, with its labels, and no other", async () => {
  const rows = [...(await read("monitoring/README.md")).matchAll(/^\| `(fluxhook_\w+)` \| \w+ \| ([^|]*)\|/gm)];
  const described = Object.fromEntries(
    rows.map(([, name, labels]) => [name as string, [...(labels as string).matchAll(/`(\w+)`/g)].map((m) => m[1])]),
  );
  const ours = [...served.names].filter((name) => /^fluxhook_/.test(name) && !/_(bucket|sum|count)$/.test(name));
  expect(Object.keys(described).sort()).toEqual(ours.sort());
  for (const name of ours) {
    if (name !== "fluxhook_parked_jobs_total") {
      expect(described[name] as string[], name).toEqual([...(served.labels.get(name) ?? [])]);
    }
  }
});
