/**
 * `bun src/dev/job-schema.ts`: print the job contract as JSON Schema, for docs/job.schema.json. With `events`, print the event
 * catalog, for docs/events.schema.json.
 */
import { z } from "zod";
import { jobData, USER_EVENT_FIELDS } from "../delivery/contract.ts";
import { EVENT_TYPES } from "../events.ts";
import { buildEventsSchema, dropPattern } from "./event-schemas.ts";

/**
 * The contract as JSON Schema, without the rules for URLs and secrets that JSON Schema cannot express.
 *
 * @param events  the event types
 */
export function buildJobSchema(events: readonly string[] = EVENT_TYPES): object {
  const { $schema, ...described } = z.toJSONSchema(jobData, {
    io: "input",
    unrepresentable: "any",
    override(context) {
      if (context.zodSchema._zod.def.type === "custom") context.jsonSchema.type = "object";
      dropPattern(context);
    },
  });
  const names = { enum: [...USER_EVENT_FIELDS] };
  const data = { ...described, anyOf: [{ required: ["endpoint"] }, { propertyNames: names }] };
  return {
    $schema,
    title: "A job of Fluxhook",
    type: "object",
    properties: { name: { enum: events }, data },
    required: ["name", "data"],
  };
}

if (import.meta.main) {
  const schema = process.argv[2] === "events" ? buildEventsSchema() : buildJobSchema();
  process.stdout.write(`${JSON.stringify(schema, undefined, 2)}\n`);
}
