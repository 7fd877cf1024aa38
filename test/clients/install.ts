/**
 * Installs the real clients of other languages, from their own registries.
 */
import { mkdirSync } from "node:fs";
import { join } from "node:path";

/** A client that was installed, or why it was not. */
export type Client = Installed | { readonly missing: string };

export interface Installed {
  /** The program and arguments of its receiver. */
  readonly receiver: readonly string[];
  /** The program of its producer, without arguments. Only Python has one. */
  readonly producer?: readonly string[];
}

const LIMIT_MS = 120 * 1000; // 2 min: a registry that takes longer does not answer
const CACHE = join(import.meta.dir, "../../node_modules/.cache/clients");
const source = (path: string) => join(import.meta.dir, path);

/** Install Python's, Go's, Rust's and Java's clients, side by side. */
export async function installClients(): Promise<Readonly<Record<string, Client>>> {
  mkdirSync(CACHE, { recursive: true });
  const languages = Object.entries({ Python: python, Go: go, Rust: rust, Java: java });
  return Object.fromEntries(await Promise.all(languages.map(async ([name, install]) => [name, await install()])));
}

async function python(): Promise<Client> {
  const directory = join(CACHE, "python");
  const interpreter = join(directory, "bin/python");
  const missing =
    (await run(["python3", "-m", "venv", directory])) ??
    (await run([interpreter, "-m", "pip", "install", "-q", "-r", source("python/requirements.txt")]));
  if (missing !== undefined) return { missing };
  return {
    receiver: [interpreter, source("python/receiver.py")],
    producer: [interpreter, source("python/producer.py")],
  };
}

async function go(): Promise<Client> {
  const program = join(CACHE, "go-receiver");
  const missing = await run(["go", "build", "-o", program, "."], { cwd: source("go") });
  return missing === undefined ? { receiver: [program] } : { missing };
}

async function rust(): Promise<Client> {
  const target = join(CACHE, "rust");
  const missing = await run(["cargo", "build", "--locked", "--quiet", "--target-dir", target], { cwd: source("rust") });
  return missing === undefined ? { receiver: [join(target, "debug/receiver")] } : { missing };
}

async function java(): Promise<Client> {
  const libraries = join(CACHE, "java");
  const copy = ["mvn", "-q", "-B", "dependency:copy-dependencies", `-DoutputDirectory=${libraries}`];
  const missing = (await run(["java", "-version"])) ?? (await run(copy, { cwd: source("java") }));
  if (missing !== undefined) return { missing };
  return { receiver: ["java", "-cp", `${libraries}/*`, source("java/Receiver.java")] };
}

/** Run a program. Returns why it failed, in one line; undefined if it did not. */
async function run(command: readonly string[], { cwd = CACHE }: { cwd?: string } = {}): Promise<string | undefined> {
  const [program = ""] = command;
  if (process.env.FLUXHOOK_NO_INSTALL === "1") return "FLUXHOOK_NO_INSTALL=1 is set";
  if (!program.includes("/") && Bun.which(program) === null) return `${program} is not installed`;
  const child = Bun.spawn([...command], { cwd, stdio: ["ignore", "pipe", "pipe"], timeout: LIMIT_MS });
  const output = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  if ((await child.exited) === 0) return undefined;
  if (child.signalCode !== null) return `${program} took longer than ${LIMIT_MS / 1000} s`;
  return `${program}: ${output.join("\n").trim().split("\n").at(-1)}`;
}
