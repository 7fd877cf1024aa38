/** The rules of the code's shape. Each test lists what breaks its rule, as `file: what`; the list must be empty. */
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";

const root = join(import.meta.dir, "..");

/** Pure: the same answer to the same question. No network, no store, no clock or chance but what is handed in. */
const PURE = [
  "signature",
  "secret",
  "payload",
  "exact-json",
  "outcome",
  "retry",
  ...["bulkheads", "circuit", "endpoint", "limiter", "memory", "pacing", "parking", "port", "waiting-line"].map(
    (name) => `isolation/${name}`,
  ),
  "mask",
  "mask-text",
  "printable",
  "login-tries",
  "http/proxy-evidence",
  "http/response",
  "advice",
  "moments",
  "events",
  "verify",
  "unknown-settings",
  "valkey-url",
  "queue-layout",
  "job-filter",
  "refusals",
  "usage",
  "dns/message",
  "dns/resolv-conf",
];
/** What starts a process, or is the door to one. */
const ENTRIES = ["pipeline", "worker", "worker-process", "suspect-process", "board", "index", "cli"];
/** The board's pages: what jobs/ is to the worker. */
const BOARD = [
  ...[
    "board-app",
    "login",
    "board-log",
    "bull-board",
    "page-routes",
    "refusal",
    "layout",
    "home-page",
    "minutes-chart",
  ],
  ...["user-page", "user-empty", "test-form", "test-event", "summary"],
];

/** Arrows point down: a file imports from its own layer and those below. */
const LAYERS = ["pure", "adapters", "jobs and board", "entries", "dev"] as const;

function layerOf(file: string): number {
  const isOneOf = (names: string[]) => names.some((name) => file.replace(/\.tsx?$/, "") === `src/${name}`);
  if (file.startsWith("src/dev/")) return LAYERS.indexOf("dev");
  if (isOneOf(ENTRIES)) return LAYERS.indexOf("entries");
  if (file.startsWith("jobs/") || file.startsWith("src/cli/") || isOneOf(BOARD))
    return LAYERS.indexOf("jobs and board");
  return isOneOf(PURE) ? LAYERS.indexOf("pure") : LAYERS.indexOf("adapters");
}

/** One library, one owner. Types may be used by all; stand-ins under src/dev use what they like. */
const OWNERS: [library: RegExp, owners: RegExp][] = [
  [/^bullmq$/, /^src\/(queue|worker-loop|exact-jobs|enqueue)\.ts$/],
  [/^ioredis$/, /^src\/(valkey|wire)\.ts$/],
  [/^@bull-board\//, /^src\/bull-board\.ts$/],
  [/^hono(\/|$)/, /^src\/(health|board-app|bull-board|page-routes|[\w-]+\.tsx$)/],
  [/^zod$/, /^(src\/settings|src\/setting-values|jobs\/event)\.ts$/],
  [/^ipaddr\.js$/, /^src\/http\/address\.ts$/],
  [/^prom-client$/, /^src\/metrics\.ts$/],
  [/^redis-parser$/, /^src\/wire\.ts$/],
  [/^(@opentelemetry\/|bullmq-otel$)/, /^src\/tracing\.ts$/],
  [/^commander$/, /^src\/cli\/program\.ts$/],
  [/^node:http$/, /^src\/cli\/listen\.ts$/],
  [/^node:(net|tls)$/, /^src\/(http\/dial|dns\/name-server)\.ts$/],
  [/^node:(dns|dns\/promises)$/, /^src\/http\/address\.ts$/],
];

interface Source {
  readonly file: string;
  readonly text: string;
  /** Without comments and types. */
  readonly code: string;
  /** All that is imported or re-exported, types too. */
  readonly imports: readonly string[];
  /** What is left of it when the program runs. */
  readonly valueImports: readonly string[];
}

const IMPORT = /^\s*(?:import|export)\s(?:[^;"']*?\sfrom\s)?\s*["']([^"']+)["']|\bimport\(\s*["']([^"']+)["']/gm;

const sources: Source[] = [...new Bun.Glob("{src,jobs}/**/*.{ts,tsx}").scanSync(root)].sort().map((file) => {
  const text = readFileSync(join(root, file), "utf8").replace(/^#!.*/, ""); // Bun's transpiler takes no such line
  const transpiler = new Bun.Transpiler({ loader: file.endsWith("x") ? "tsx" : "ts", target: "bun" });
  return {
    file,
    text,
    code: transpiler.transformSync(text),
    imports: [...text.matchAll(IMPORT)].map((match) => (match[1] ?? match[2]) as string),
    valueImports: transpiler.scanImports(text).map(({ path }) => path),
  };
});

const isOurs = (path: string) => path.startsWith(".");
const resolved = (from: string, path: string) => normalize(join(dirname(from), path));

/** `file: what` for each finding in each source. */
function findings(find: (source: Source) => Iterable<string>): string[] {
  return sources.flatMap((source) => [...find(source)].map((what) => `${source.file}: ${what}`));
}

test("the sources are found, and so are their imports", () => {
  const deliver = sources.find(({ file }) => file === "jobs/deliver.ts");
  expect(deliver?.imports).toContain("../src/isolation/gate.ts"); // a type
  expect(deliver?.valueImports).toContain("./event.ts");
  for (const name of PURE) expect(sources.map(({ file }) => file)).toContain(`src/${name}.ts`);
});

test("the map in CONTRIBUTING.md has each file in its layer, and no other", () => {
  const NAMES: Record<string, (typeof LAYERS)[number]> = {
    "stand-ins": "dev",
    "what the queue runs": "jobs and board",
    "the command": "jobs and board",
    "the board's pages": "jobs and board",
  };
  const map = readFileSync(join(root, "CONTRIBUTING.md"), "utf8").matchAll(
    /^\| ([\w' -]+) \| `([\w/]+\/)` \| (.+) \|$/gm,
  );
  const mapped = [...map].flatMap(([, layer = "", folder, files = ""]) =>
    [...files.matchAll(/`([\w-]+)`/g)].map(([, name]) => `${NAMES[layer] ?? layer}: ${folder}${name}`),
  );
  const present = sources.map(({ file }) => `${LAYERS[layerOf(file)]}: ${file.replace(/\.tsx?$/, "")}`);
  expect(mapped.sort()).toEqual(present.sort());
});

test("arrows point down only", () => {
  const upward = findings(({ file, imports }) =>
    imports.filter(isOurs).filter((path) => layerOf(resolved(file, path)) > layerOf(file)),
  );
  expect(upward).toEqual([]);
});

test("there is no circle of imports", () => {
  const graph = new Map(
    sources.map(({ file, imports }) => [file, imports.filter(isOurs).map((path) => resolved(file, path))]),
  );
  const done = new Set<string>();
  const circles: string[] = [];
  const visit = (file: string, path: string[]): void => {
    if (path.includes(file)) circles.push([...path.slice(path.indexOf(file)), file].join(" → "));
    if (path.includes(file) || done.has(file)) return;
    for (const next of graph.get(file) ?? []) visit(next, [...path, file]);
    done.add(file);
  };
  for (const file of graph.keys()) visit(file, []);
  expect(circles).toEqual([]);
});

test("pure files import nothing but each other, hashing and bytes", () => {
  const impure = findings(({ file, imports }) => {
    if (layerOf(file) !== LAYERS.indexOf("pure")) return [];
    return imports.filter((path) => path !== "node:crypto" && path !== "node:buffer" && !isOurs(path));
  });
  expect(impure).toEqual([]);
});

test("pure files take clock and chance as parameters, with the real ones as their defaults at the most", () => {
  const OUTSIDE =
    /(= )?(Date\.now|Math\.random|performance\.now|new Date\(\)|randomUUID\b|setTimeout|setInterval|fetch\()/g;
  const impure = findings(({ file, code }) => {
    if (layerOf(file) !== LAYERS.indexOf("pure")) return [];
    return [...code.matchAll(OUTSIDE)].filter((match) => match[1] === undefined).map((match) => match[0]);
  });
  expect(impure).toEqual([]);
});

test("the environment is read by entries alone, to hand it on", () => {
  const readers = findings(({ file, code }) => {
    if (file.startsWith("src/dev/")) return [];
    const isEntry = layerOf(file) === LAYERS.indexOf("entries");
    const rest = isEntry
      ? code.replaceAll(
          /\b(loadConfig\w*|findMisspelt|runCommand|keepFreedMemory)\((process\.argv\.slice\(2\), )?process\.env\b(?!\.)/g,
          "",
        )
      : code;
    return rest.match(/\b(process|Bun|import\.meta)\.env\b/g) ?? [];
  });
  expect(readers).toEqual([]);
});

test("one library has one owner", () => {
  const strangers = findings(({ file, valueImports }) => {
    if (file.startsWith("src/dev/")) return [];
    return valueImports.filter((path) => OWNERS.some(([library, owners]) => library.test(path) && !owners.test(file)));
  });
  expect(strangers).toEqual([]);
});

test("every library has an owner", () => {
  const { dependencies, optionalDependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const isOwned = (name: string) => OWNERS.some(([library]) => library.test(name) || library.test(`${name}/`));
  expect(Object.keys({ ...dependencies, ...optionalDependencies }).filter((name) => !isOwned(name))).toEqual([]);
  const unknown = findings(({ imports }) =>
    imports.filter((path) => !isOurs(path) && !/^(node|bun):/.test(path) && !isOwned(path)),
  );
  expect(unknown).toEqual([]);
});

test("every dependency has its reason in CHANGELOG.md, and its version is exact", () => {
  const { dependencies, optionalDependencies, devDependencies } = JSON.parse(
    readFileSync(join(root, "package.json"), "utf8"),
  );
  const changelog = readFileSync(join(root, "CHANGELOG.md"), "utf8");
  const isExplained = (name: string) => [name, dirname(name)].some((part) => changelog.includes(`\`${part}\``));
  const all = { ...dependencies, ...optionalDependencies, ...devDependencies };
  expect(Object.keys(all).filter((name) => !isExplained(name))).toEqual([]);
  expect(Object.values<string>(all).filter((version) => !/^(npm:\w+@)?\d+\.\d+\.\d+$/.test(version))).toEqual([]);
});

test("imports of ours name the file with its ending", () => {
  expect(findings(({ imports }) => imports.filter((path) => isOurs(path) && !/\.(tsx?|json)$/.test(path)))).toEqual([]);
});

test("there are no default exports", () => {
  expect(findings(({ code }) => code.match(/^export default\b|\bas default\b/gm) ?? [])).toEqual([]);
});

test("file names are nouns in kebab-case that say something", () => {
  const EMPTY = /utils?|helpers?|common|types?|manager|services?|misc|stuff/;
  const names = sources.map(({ file }) => file.replace(/^.*\//, ""));
  expect(names.filter((name) => EMPTY.test(name) || !/^[a-z]+(-[a-z]+)*\.tsx?$/.test(name))).toEqual([]);
});

test("no file is longer than 300 lines", () => {
  const LIMIT = 300;
  const lengths = findings(({ text }) => {
    const lines = text.trimEnd().split("\n").length;
    return lines > LIMIT ? [`${lines} lines`] : [];
  });
  expect(lengths).toEqual([]);
});
