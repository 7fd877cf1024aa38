/**
 * `bun src/dev/job-schema.ts`: print the job contract as JSON Schema, for docs/job.schema.json.
 */
import { z } from "zod";
import { EVENT_TYPES, jobData } from "../delivery/contract.ts";

/** The contract as JSON Schema, without the rules for URLs and secrets that JSON Schema cannot express. */
export function buildJobSchema(): object {
  const { $schema, ...data } = z.toJSONSchema(jobData, {
    io: "input",
    unrepresentable: "any",
    override({ zodSchema, jsonSchema }) {
      if (zodSchema._zod.def.type === "custom") jsonSchema.type = "object";
    },
  });
  return {
    $schema,
    title: "A job of Fluxhook",
    type: "object",
    properties: { name: { enum: EVENT_TYPES }, data },
    required: ["name", "data"],
  };
}

if (import.meta.main) process.stdout.write(`${JSON.stringify(buildJobSchema(), undefined, 2)}\n`);
