/** The event catalog: types, samples, schema and docs/events.md say the same. */
import { expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Queue } from "bullmq";
import { z } from "zod";
import schema from "../docs/events.schema.json";
import { buildEventsSchema, type EVENT_SCHEMAS } from "../src/dev/event-schemas.ts";
import { EVENT_SAMPLES, EVENT_TYPES, type EventCatalog, type EventType } from "../src/events.ts";
import { findSnippet } from "./support/snippets.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const ROOT = join(import.meta.dir, "..");
const page = readFileSync(join(ROOT, "docs/events.md"), "utf8");
const isValid = z.fromJSONSchema(schema as Parameters<typeof z.fromJSONSchema>[0]);

/** As the schemas have them: the compiler checks that the types say no more and no less. */
const samples: { readonly [T in EventType]: z.input<(typeof EVENT_SCHEMAS)[T]> } = EVENT_SAMPLES satisfies EventCatalog;

const payload = (event: string, data: object) => ({
  id: "97f2722f-92a5-58bf-b4f0-b12e476e3a6d",
  event,
  timestamp: "2026-11-23T08:59:50.851Z",
  data,
});

interface FieldSchema {
  readonly type?: string | string[];
  readonly enum?: readonly string[];
  readonly anyOf?: readonly FieldSchema[];
  readonly format?: string;
  readonly description?: string;
}

function typeName({ type, enum: values, anyOf, format }: FieldSchema): string {
  if (values !== undefined) return values.map((value) => `\`${value}\``).join(", ");
  if (anyOf !== undefined) return anyOf.map(typeName).join(" or ");
  return format === "date-time" ? "ISO 8601 time" : [type].flat().join(" or ");
}

test("docs/events.schema.json is the catalog: `bun src/dev/job-schema.ts events` writes it", () => {
  expect(schema as object).toEqual(JSON.parse(JSON.stringify(buildEventsSchema())));
});

test("every event type has its section in docs/events.md, in order, and there are no others", () => {
  expect([...page.matchAll(/^### (.+)$/gm)].map(([, name]) => name as EventType)).toEqual([...EVENT_TYPES]);
});

test.each([...EVENT_TYPES])("%s: the sample fits the schema, and docs/events.md has it and every field", (type) => {
  expect(isValid.safeParse(payload(type, samples[type])).success).toBe(true);
  expect(JSON.parse(findSnippet("docs/events.md", "json", { heading: type }))).toEqual(EVENT_SAMPLES[type]);
  const section = page.split(`\n### ${type}\n`)[1]?.split("\n### ")[0] as string;
  const { description, properties, required } = schema.$defs[type];
  expect(section.trim()).toStartWith(description);
  const rows = [...section.matchAll(/^\| `.+$/gm)].map(([row]) => row);
  expect(rows).toEqual(
    Object.entries<FieldSchema>(properties).map(
      ([name, field]) => `| \`${name}\` | ${typeName(field)} | ${field.description} |`,
    ),
  );
  expect(required as string[]).toEqual(Object.keys(properties));
  expect(Object.keys(EVENT_SAMPLES[type])).toEqual(Object.keys(properties));
});

test("the schema takes new fields, and refuses data of another type, without a field, and unknown types", () => {
  const data = EVENT_SAMPLES["storage.exceeded"];
  const isFine = (event: string, given: object) => isValid.safeParse(payload(event, given)).success;
  expect(isFine("storage.exceeded", { ...data, plan: "team" })).toBe(true);
  expect(isFine("storage.exceeded", { ...data, usedBytes: "1" })).toBe(false);
  expect(isFine("storage.exceeded", { orgId: "org_77" })).toBe(false);
  expect(isFine("file.created", data)).toBe(false);
  expect(isFine("invoice.paid", data)).toBe(false);
});

test("the guide's own event types compile, hold what they declare, and are enqueued", async () => {
  const folder = mkdtempSync(join(tmpdir(), "fluxhook-events-"));
  const snippet = findSnippet("docs/events.md", "ts");
  writeFileSync(join(folder, "snippet.ts"), snippet);
  writeFileSync(join(folder, "checked.ts"), `${snippet}${CHECKED}`);
  const paths = { fluxhook: [join(ROOT, "src/index.ts")], "fluxhook/events": [join(ROOT, "src/events.ts")] };
  const compilerOptions = {
    ...{ paths, strict: true, noEmit: true, skipLibCheck: true },
    ...{ module: "esnext", target: "es2022", lib: ["esnext", "dom"], moduleResolution: "bundler" },
    ...{ allowImportingTsExtensions: true, types: ["bun"], typeRoots: [join(ROOT, "node_modules/@types")] },
  };
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions, files: ["checked.ts"] }));
  const run = async (command: string[]) => {
    const env = { PATH: process.env.PATH ?? "", VALKEY_URL: await testValkeyUrl() };
    const child = Bun.spawn(command, { cwd: folder, env, stdio: ["ignore", "pipe", "pipe"] });
    const said = [new Response(child.stdout).text(), new Response(child.stderr).text()];
    return (await Promise.all(said)).join("");
  };
  try {
    expect(await run(["node", join(ROOT, "node_modules/typescript/bin/tsc"), "-p", "."])).toBe("");
    expect(await run([process.execPath, "snippet.ts"])).toBe("");
    const queue = new Queue("webhooks", { connection: { url: await testValkeyUrl() } });
    expect((await queue.getJobs("waiting")).map(({ name, data }) => [name, data.data])).toEqual([
      ["invoice.paid", { invoiceId: "inv_7", cents: 1900 }],
    ]);
    await queue.close();
  } finally {
    rmSync(folder, { recursive: true });
  }
}, 60_000);

const CHECKED = `
import { EVENT_SAMPLES, type WebhookPayload } from "fluxhook/events";
const to = { userId: "usr_42", endpoint: { url: "https://example.com", secret: "s" } };
await fluxhook.enqueue({ ...to, event: "file.created", data: EVENT_SAMPLES["file.created"], expiresAt: new Date() });
// @ts-expect-error: the cents are missing
await fluxhook.enqueue({ ...to, event: "invoice.paid", data: { invoiceId: "inv_7" } });
// @ts-expect-error: not declared
await fluxhook.enqueue({ ...to, event: "invoice.voided", data: {} });
export const amount = (payload: WebhookPayload): number =>
  payload.event === "invoice.paid" ? payload.data.cents : payload.event === "file.created" ? payload.data.sizeBytes : 0;
`;
