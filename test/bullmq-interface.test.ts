/** BullMQ is used through its public and protected interface only, in all of `src/` and `jobs/`. */
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import ts from "typescript5"; // 7 has no API for this

const root = join(import.meta.dir, "..");
const { compilerOptions } = ts.readConfigFile(join(root, "tsconfig.json"), ts.sys.readFile).config;
const { options } = ts.convertCompilerOptionsFromJson({ ...compilerOptions, checkJs: false }, root);

/** Names of members that BullMQ's declarations mark private: many are common words, so types decide what is one of them. */
const names = new Set<string>();
for (const file of new Bun.Glob("node_modules/bullmq/dist/esm/**/*.d.ts").scanSync(root)) {
  const text = readFileSync(join(root, file), "utf8");
  for (const [, name] of text.matchAll(/^ +private (?:(?:static|readonly|get|set) )*(\w+)/gm))
    names.add(name as string);
}

function isPrivate(symbol: ts.Symbol | undefined): boolean {
  return (symbol?.declarations ?? []).some(
    (declaration) =>
      declaration.getSourceFile().fileName.includes("/node_modules/bullmq/") &&
      ts.getCombinedModifierFlags(declaration) & ts.ModifierFlags.Private,
  );
}

const isCast = (node: ts.Node): node is ts.AsExpression => ts.isAsExpression(node);
const bare = (node: ts.Expression): ts.Expression =>
  isCast(node) || ts.isParenthesizedExpression(node) ? bare(node.expression) : node;

/** What of a program's files reaches for private members: by a dot, a bracket, in a pattern, or behind a cast. */
function findUses(files: readonly string[], host?: ts.CompilerHost): string[] {
  const program = ts.createProgram(files, options, host);
  const checker = program.getTypeChecker();
  const uses: string[] = [];
  for (const file of files) {
    const visit = (node: ts.Node): void => {
      const isNamed = (ts.isIdentifier(node) || ts.isStringLiteral(node)) && names.has(node.text);
      if (isNamed && isUse(node)) uses.push(`${file.replace(`${root}/`, "")}: ${node.parent.getText()}`);
      ts.forEachChild(node, visit);
    };
    visit(program.getSourceFile(file) as ts.SourceFile);
  }
  return uses;

  function isUse(node: ts.Identifier | ts.StringLiteral): boolean {
    const { parent } = node;
    const { text } = node;
    const memberOf = (value: ts.Node) => isPrivate(checker.getPropertyOfType(checker.getTypeAtLocation(value), text));
    if (ts.isPropertyAccessExpression(parent) && parent.name === node) return memberOf(bare(parent.expression));
    if (ts.isElementAccessExpression(parent)) return memberOf(bare(parent.expression));
    if (ts.isBindingElement(parent)) return memberOf(parent.parent);
    // A field or method of a subclass that stands in the place of a private one.
    if (ts.isClassElement(parent) && ts.isClassLike(parent.parent)) {
      const base = parent.parent.heritageClauses?.find(({ token }) => token === ts.SyntaxKind.ExtendsKeyword)?.types[0];
      return base !== undefined && memberOf(base);
    }
    return false;
  }
}

test("private members are found, whatever way they are reached for", () => {
  expect([...names]).toContain("mainLoopQueue");
  const file = join(root, "src/planted.ts");
  const text = `import { type Job, Queue, Worker } from "bullmq";
    export class Loop extends Worker { drained = true; resume() { this.limitUntil = 0; (this as unknown as { waiting: 1 }).waiting; } }
    export const uses = (worker: Worker) => [worker["mainLoopQueue"], (worker as any).whenCurrentJobsFinished()];
    export const { updateDelays } = Worker.prototype;
    export const none = (worker: Worker, job: Job) => [worker.isRunning(), job.name, { waiting: 1 }.waiting];`;
  const host = ts.createCompilerHost(options);
  const { getSourceFile, fileExists } = host;
  host.fileExists = (path) => path === file || fileExists(path);
  host.getSourceFile = (path, ...rest) =>
    path === file ? ts.createSourceFile(path, text, rest[0], true) : getSourceFile(path, ...rest);
  expect(findUses([file], host).map((use) => use.replace("src/planted.ts: ", ""))).toEqual([
    "drained = true;",
    "this.limitUntil",
    "(this as unknown as { waiting: 1 }).waiting",
    'worker["mainLoopQueue"]',
    "(worker as any).whenCurrentJobsFinished",
    "updateDelays",
  ]);
}, 60_000);

test("no source uses a private member of BullMQ", () => {
  const files = [...new Bun.Glob("{src,jobs}/**/*.{ts,tsx}").scanSync(root)].map((file) => join(root, file));
  const mentions = new RegExp(`\\b(?:${[...names].join("|")})\\b`);
  const suspects = files.filter((file) => mentions.test(readFileSync(file, "utf8")));
  expect(suspects).toContain(join(root, "src/queue/worker-loop.ts"));
  expect(findUses(suspects)).toEqual([]);
}, 60_000);
