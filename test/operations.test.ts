/** What docs/operations.md and docs/deploy name must be there, and what any page links to: settings, files, commands, options, sections. */
import { expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { SETTINGS } from "../src/settings/table.ts";

const docs = join(import.meta.dir, "../docs");
const read = (name: string) => readFileSync(join(docs, name), "utf8");
const PAGES = ["operations.md", "monitoring/README.md", "monitoring/tracing.md", "comparison.md"];
const DEPLOY = readdirSync(join(docs, "deploy")).map((name) => `deploy/${name}`);
const operations = read("operations.md");

const slug = (heading: string) =>
  heading
    .toLowerCase()
    .replaceAll(/[^\w\s-]/g, "")
    .replaceAll(" ", "-");

test.each(["../README.md", "../CONTRIBUTING.md", ...new Bun.Glob("**/*.md").scanSync(docs)])(
  "every link of %s leads somewhere",
  (page) => {
    const broken = [...read(page).matchAll(/\]\(([^)\s]+)\)/g)]
      .map(([, target]) => target as string)
      .filter((target) => {
        if (/^https?:/.test(target)) return false;
        const [path = "", anchor] = target.split("#");
        const file = path === "" ? join(docs, page) : join(docs, page, "..", path);
        if (!existsSync(file)) return true;
        const headings = [...readFileSync(file, "utf8").matchAll(/^#+ (.+)$/gm)].map(([, text]) =>
          slug(text as string),
        );
        return anchor !== undefined && !headings.includes(anchor);
      });
    expect(broken).toEqual([]);
  },
);

test.each([...PAGES, ...DEPLOY])("every setting that %s names exists", (page) => {
  const names = new Set(Object.values(SETTINGS).map(({ name }) => name));
  for (const [, name] of read("../docker-compose.yml").matchAll(/\$\{(\w+)/g)) names.add(name as string); // Compose's own
  const found = read(page).match(/\b(?:WEBHOOK|WORKER|BOARD|VALKEY)_[A-Z_]+\b|\bSHUTDOWN_TIMEOUT\b/g) ?? [];
  expect(found.filter((name) => !names.has(name))).toEqual([]);
});

test("every file that a command of docs/operations.md names exists", () => {
  const files = operations.match(/\b(?:src|docs)\/[\w./*-]+\.(?:ts|yml|service)\b/g) ?? [];
  expect(files.length).toBeGreaterThan(5);
  expect(files.filter((file) => [...new Bun.Glob(file).scanSync(join(docs, ".."))].length === 0)).toEqual([]);
});

const commands = [
  ...new Set([...operations.matchAll(/bun src\/cli\.ts ([\w -]+)/g)].map(([, line]) => line as string)),
];

test.each(commands)(
  "fluxhook %s: the command and its options exist",
  (line) => {
    const [command, ...rest] = line.trim().split(" ");
    const env = { PATH: process.env.PATH };
    const run = Bun.spawnSync([process.execPath, "src/cli.ts", command as string, "--help"], {
      cwd: join(docs, ".."),
      env,
    });
    expect(run.exitCode).toBe(0);
    const help = run.stdout.toString();
    expect(rest.filter((word) => word.startsWith("--") && !help.includes(`${word} `))).toEqual([]);
  },
  20_000,
);

test.each(DEPLOY.filter((name) => name.endsWith(".yml")))(
  "%s parses, and every object has a kind and a name",
  (name) => {
    const parsed = Bun.YAML.parse(read(name)) as object | object[];
    for (const object of [parsed].flat()) {
      expect(object).toMatchObject({
        apiVersion: expect.any(String),
        kind: expect.any(String),
        metadata: { name: expect.any(String) },
      });
    }
  },
);

test("in Kubernetes each pod has its own secret, no token and no rights, and a network policy", () => {
  const objects = Bun.YAML.parse(read("deploy/kubernetes.yml")) as {
    kind: string;
    metadata: { name: string };
    spec: { template: { spec: Record<string, unknown> & { containers: Record<string, unknown>[] } } };
  }[];
  const pods = objects.filter(({ kind }) => kind === "Deployment");
  expect(pods.map(({ metadata }) => metadata.name)).toEqual(["fluxhook-worker", "fluxhook-board"]);
  for (const { metadata, spec } of pods) {
    const { containers, automountServiceAccountToken } = spec.template.spec;
    expect(automountServiceAccountToken).toBe(false);
    expect(containers[0]?.envFrom).toEqual([{ secretRef: { name: metadata.name } }]);
    expect(containers[0]?.securityContext).toEqual({
      runAsNonRoot: true,
      runAsUser: 1000,
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ["ALL"] },
      seccompProfile: { type: "RuntimeDefault" },
    });
    expect(objects).toContainEqual(expect.objectContaining({ kind: "NetworkPolicy", metadata }));
  }
});

test.each(["deploy/fluxhook-worker@.service", "deploy/fluxhook-board.service"])(
  "%s has no rights that it does not need, and secrets of its own",
  (name) => {
    const unit = read(name);
    for (const line of ["CapabilityBoundingSet=", "NoNewPrivileges=yes", "SystemCallFilter=@system-service"]) {
      expect(unit).toContain(`\n${line}\n`);
    }
    expect(unit).toMatch(/\nIPAddressDeny=\S/);
    expect(unit).toContain(`\nEnvironmentFile=/etc/${/fluxhook-\w+/.exec(name)?.[0]}.env\n`);
  },
);

test("Kubernetes and systemd give a worker longer to end than it gives itself, and ask for what there is", () => {
  const text = read("deploy/kubernetes.yml");
  expect(Number(/terminationGracePeriodSeconds: (\d+)/.exec(text)?.[1])).toBeGreaterThanOrEqual(25);
  expect(Number(/TimeoutStopSec=(\d+)/.exec(read("deploy/fluxhook-worker@.service"))?.[1])).toBeGreaterThanOrEqual(25);
  expect(new Set(text.match(/path: \/\w+/g))).toEqual(new Set(["path: /healthz", "path: /readyz"]));
});
