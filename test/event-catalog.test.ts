/** The event catalog: types, samples, schema and docs/events.md say the same. */
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import schema from "../docs/events.schema.json";
import { buildEventsSchema, type EVENT_SCHEMAS } from "../src/dev/event-schemas.ts";
import { EVENT_SAMPLES, EVENT_TYPES, type EventCatalog, type EventType } from "../src/events.ts";
import { findSnippet } from "./support/snippets.ts";

const page = readFileSync(join(import.meta.dir, "../docs/events.md"), "utf8");
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
