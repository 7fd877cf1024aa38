/** The rules of the code's shape. Each test lists what breaks its rule, as `file: what`; the list must be empty. */
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import ts from "typescript5"; // 7 has no API for this

const root = join(import.meta.dir, "..");

/** What operators and backends use of registered endpoints; the rest is the worker's. */
const REGISTERED = ["homes", "streaks", "missed", "registry"];

/**
 * The wings, and which others each may import. A wing names only those above it, so there is no circle. Doors, which stand in
 * `src/` itself, and stand-ins may import all; of the doors, `events` and `verify` may be imported by all.
 */
const WINGS: Readonly<Record<string, readonly string[]>> = {
  "src/runtime": [],
  "src/delivery": ["runtime"],
  "src/valkey": ["runtime"],
  "src/dns": ["delivery"],
  "src/http": ["dns", "delivery", "runtime"],
  "src/queue": ["valkey", "delivery", "runtime"],
  "src/isolation": ["queue", "valkey", "delivery", "runtime"],
  "src/log": ["queue", "valkey", "delivery", "runtime"],
  "src/registry": ["queue", "valkey", "delivery", "runtime"],
  "src/missed": ["registry", "queue", "valkey", "delivery", "runtime"],
  "src/streaks": ["missed", "registry", "log", "queue", "valkey", "delivery"],
  "src/endpoints": ["missed", "registry", "queue", "valkey", "delivery", "runtime"],
  "src/homes": ["streaks", "missed", "registry", "queue", "valkey", "delivery"],
  "src/monitoring": ["http", "queue", "valkey", "delivery", "runtime"],
  "src/operations": [...REGISTERED, "log", "isolation", "queue", "valkey", "delivery", "runtime"],
  "src/settings": ["homes", "monitoring", "log", "http", "dns", "queue", "valkey", "delivery", "runtime"],
  "src/package": [...REGISTERED, "settings", "log", "queue", "valkey", "delivery", "runtime"],
  jobs: ["monitoring", "log", "endpoints", "registry", "isolation", "queue", "http", "delivery", "runtime"],
  "src/worker": [
    ...REGISTERED,
    ...["jobs", "settings", "monitoring", "log", "endpoints", "isolation"],
    ...["queue", "http", "dns", "valkey", "delivery", "runtime"],
  ],
  "src/board": [
    ...["homes", "missed", "registry"],
    ...["settings", "operations", "monitoring", "log", "queue", "dns", "valkey", "delivery", "runtime"],
  ],
  "src/cli": [
    ...REGISTERED,
    ...["settings", "operations", "monitoring", "log", "queue", "valkey", "delivery", "runtime"],
  ],
};
const DOORS = ["worker", "board", "cli", "index", "verify", "events"].map((name) => `src/${name}`);
const OPEN_DOORS = ["src/events.ts", "src/verify.ts"];
const STAND_INS = "src/dev";

/** Pure: the same answer to the same question. No network, no store, no clock or chance but what is handed in. */
const PURE = [
  ...["exact-json", "forwarded-id", "limits", "outcome", "request", "retry", "secret", "signature"].map(
    (name) => `delivery/${name}`,
  ),
  ...[
    "bulkheads",
    "circuit",
    "endpoint",
    "holds",
    "limiter",
    "memory",
    "pacing",
    "parking",
    "port",
    "round-robin-queue",
  ].map((name) => `isolation/${name}`),
  ...["advice", "job-filter", "mask", "mask-text", "moments"].map((name) => `operations/${name}`),
  ...["attempt", "attempt-query", "echoed-secrets", "kept-response"].map((name) => `log/${name}`),
  "board/login-tries",
  "events",
  "verify",
  "http/proxy-evidence",
  "http/response",
  "http/response-beginning",
  "http/frame-head",
  "dns/message",
  "dns/resolv-conf",
  "package/options",
  "queue/layout",
  "queue/budget",
  "queue/own-keys",
  "queue/shards",
  "queue/wake-up",
  "runtime/invariant",
  "runtime/printable",
  "runtime/usage-error",
  "settings/misspelled",
  "valkey/refusals",
  "valkey/url",
];

const wingOf = (file: string): string => dirname(file);
const isPure = (file: string): boolean => PURE.some((name) => file.replace(/\.tsx?$/, "") === `src/${name}`);
const isDoor = (file: string): boolean => DOORS.includes(file.replace(/\.tsx?$/, ""));

/** One library, one owner. Types may be used by all; stand-ins use what they like. */
const OWNERS: [library: RegExp, owners: RegExp][] = [
  [/^bullmq$/, /^src\/queue\/(worker|worker-loop|exact-jobs|enqueue)\.ts$/],
  [/^ioredis$/, /^src\/valkey\/(cluster|connection|wire)\.ts$/],
  [/^@bull-board\//, /^src\/board\/bull-board\.ts$/],
  [/^hono(\/|$)/, /^src\/(monitoring\/health\.ts|board\/(app|bull-board|page-routes|[\w-]+)\.tsx?)$/],
  [/^zod$/, /^src\/(settings\/table|settings\/values|delivery\/contract|registry\/document)\.ts$/],
  [/^ipaddr\.js$/, /^src\/dns\/address\.ts$/],
  [/^prom-client$/, /^src\/monitoring\/(queue-)?metrics\.ts$/],
  [/^redis-parser$/, /^src\/valkey\/wire\.ts$/],
  [/^(@opentelemetry\/|bullmq-otel$)/, /^src\/monitoring\/tracing\.ts$/],
  [/^commander$/, /^src\/cli\/program\.ts$/],
  [/^node:http$/, /^src\/cli\/listen\.ts$/],
  [/^node:(net|tls)$/, /^src\/(http\/dial|dns\/name-server|valkey\/cluster)\.ts$/],
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
  expect(deliver?.valueImports).toContain("../src/delivery/contract.ts");
  for (const name of PURE) expect(sources.some(({ file }) => isPure(file) && file.includes(`/${name}.`))).toBe(true);
});

test("each source is a door, or stands in a wing", () => {
  const strays = sources.filter(({ file }) => !isDoor(file) && !(wingOf(file) in WINGS) && wingOf(file) !== STAND_INS);
  expect(strays.map(({ file }) => file)).toEqual([]);
});

test("a wing imports only those that it may, and names only those above it", () => {
  const names = Object.keys(WINGS);
  for (const [index, mayImport] of Object.values(WINGS).entries()) {
    const above = names.slice(0, index).map((name) => name.replace("src/", ""));
    expect(above).toEqual(expect.arrayContaining([...mayImport]));
  }
  const strays = findings(({ file, imports }) => {
    const wing = wingOf(file);
    if (isDoor(file) || wing === STAND_INS) return [];
    const paths = imports.filter(isOurs).map((path) => resolved(file, path));
    const isAllowed = (other: string) => other === wing || WINGS[wing]?.includes(other.replace("src/", ""));
    return paths.filter((path) => !OPEN_DOORS.includes(path) && !isAllowed(wingOf(path)));
  });
  expect(strays).toEqual([]);
});

test("the map in CONTRIBUTING.md has each file in its wing, and no other", () => {
  const map = readFileSync(join(root, "CONTRIBUTING.md"), "utf8").matchAll(/^\| `([\w/]+)\/` \| (.+) \|$/gm);
  const mapped = [...map].flatMap(([, folder, files = ""]) =>
    [...files.matchAll(/`([\w-]+)`/g)].map(([, name]) => `${folder}/${name}`),
  );
  expect(mapped.sort()).toEqual(sources.map(({ file }) => file.replace(/\.tsx?$/, "")).sort());
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
    if (!isPure(file)) return [];
    const isFine = (path: string) =>
      isOurs(path) ? isPure(resolved(file, path)) : /^node:(crypto|buffer)$/.test(path);
    return imports.filter((path) => !isFine(path));
  });
  expect(impure).toEqual([]);
});

test("pure files take clock and chance as parameters, with the real ones as their defaults at the most", () => {
  const OUTSIDE =
    /(= )?(Date\.now|Math\.random|performance\.now|new Date\(\)|randomUUID\b|setTimeout|setInterval|fetch\()/g;
  const impure = findings(({ file, code }) => {
    if (!isPure(file)) return [];
    return [...code.matchAll(OUTSIDE)].filter((match) => match[1] === undefined).map((match) => match[0]);
  });
  expect(impure).toEqual([]);
});

test("the environment is read by doors and processes alone, to hand it on", () => {
  const readers = findings(({ file, code }) => {
    if (wingOf(file) === STAND_INS) return [];
    const isEntry = isDoor(file) || /^src\/worker\/([a-z]+-)?process\.ts$/.test(file);
    const rest = isEntry
      ? code.replaceAll(
          /\b(loadConfig\w*|findMisspelled|runCommand|keepFreedMemory)\((process\.argv\.slice\(2\), )?process\.env\b(?!\.)/g,
          "",
        )
      : code;
    return rest.match(/\b(process|Bun|import\.meta)\.env\b/g) ?? [];
  });
  expect(readers).toEqual([]);
});

test("one library has one owner", () => {
  const strangers = findings(({ file, valueImports }) => {
    if (wingOf(file) === STAND_INS) return [];
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

test("the names of keys are spelled in two files: BullMQ's in queue/layout, ours in queue/own-keys", () => {
  const NAMES =
    /\bbull:|webhooks:\w+:|[`"']:(lock|logs|wait|active|delayed|failed|completed|prioritized|marker|meta|paused)\b|queue\.toKey\(/g;
  const spelled = findings(({ file, code }) =>
    wingOf(file) === STAND_INS || /^src\/queue\/(layout|own-keys)\.ts$/.test(file) ? [] : (code.match(NAMES) ?? []),
  );
  expect(spelled).toEqual([]);
  expect(sources.find(({ file }) => file === "src/queue/layout.ts")?.code).toMatch(NAMES);
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

test("no function is longer than 70 lines", () => {
  const LIMIT = 70; // pages are exempt: most of their lines are markup
  const lengths = findings(({ file, text }) => {
    if (file.endsWith(".tsx")) return [];
    const source = ts.createSourceFile(file, text, ts.ScriptTarget.Latest);
    const lineAt = (position: number) => source.getLineAndCharacterOfPosition(position).line + 1;
    const found: string[] = [];
    const visit = (node: ts.Node): void => {
      if (ts.isFunctionLike(node)) {
        const [from, to] = [lineAt(node.getStart(source)), lineAt(node.end)];
        if (to - from + 1 > LIMIT) found.push(`${to - from + 1} lines from line ${from}`);
      }
      ts.forEachChild(node, visit);
    };
    visit(source);
    return found;
  });
  expect(lengths).toEqual([]);
});
