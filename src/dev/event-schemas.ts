/**
 * The event catalog as schemas: what `data` holds for each event type. The compiler compares them with the types in events.ts.
 */
import { z } from "zod";
import { EVENT_TYPES, type EventCatalog } from "../events.ts";

const text = (what: string) => z.string().describe(what);
const orNull = (what: string) => z.string().nullable().describe(what);
const bytes = (what: string) => z.int().nonnegative().describe(what);
const flag = (what: string) => z.boolean().describe(what);
const role = (what: string) => z.enum(["viewer", "editor", "admin"]).describe(what);

const fileId = text("the file");
const name = text("the file's name");
const folder = text("the path of its folder, from the root");
const shareId = text("the link");
const orgId = text("the organization");
const email = text("the user's address");

/** What `data` holds, by event type. Unknown fields are allowed, since fields may be added. */
export const EVENT_SCHEMAS = {
  "file.created": z
    .looseObject({
      ...{ fileId, name, folder },
      sizeBytes: bytes("its size"),
      contentType: text("its media type"),
      uploadedBy: text("the user who uploaded it"),
    })
    .describe("A file was uploaded."),
  "file.deleted": z
    .looseObject({
      ...{ fileId, name, folder },
      deletedBy: text("the user who deleted it"),
      isPermanent: flag("whether it skipped the trash, so that it cannot be restored"),
    })
    .describe("A file was deleted."),
  "file.downloaded": z
    .looseObject({
      ...{ fileId, name },
      downloadedBy: orNull("the user who downloaded it; null for somebody without an account"),
      shareId: orNull("the link through which it was downloaded; null if there was none"),
      ipAddress: text("the address it was sent to"),
    })
    .describe("A file was downloaded, by a user or through a shared link."),
  "share.linked": z
    .looseObject({
      ...{ shareId, fileId },
      url: text("the link's URL"),
      hasPassword: flag("whether the link asks for a password"),
      linkExpiresAt: z.iso.datetime().nullable().describe("when the link stops working; null if it never does"),
      createdBy: text("the user who created it"),
    })
    .describe("A link to a file was created."),
  "share.deleted": z
    .looseObject({
      ...{ shareId, fileId },
      reason: z.enum(["deleted", "expired"]).describe("why it stopped working"),
      deletedBy: orNull("the user who deleted it; null if it expired"),
    })
    .describe("A link stopped working."),
  "org.userAdded": z
    .looseObject({
      orgId,
      userId: text("the user who joined"),
      email,
      role: role("the user's role"),
      addedBy: text("the user who added them"),
    })
    .describe("A user joined an organization."),
  "org.userRemoved": z
    .looseObject({
      orgId,
      userId: text("the user who left"),
      email,
      removedBy: text("the user who removed them, or they themselves"),
    })
    .describe("A user left an organization, or was removed from it."),
  "org.updated": z
    .looseObject({
      orgId,
      changes: z
        .record(z.string(), z.looseObject({ from: z.unknown(), to: z.unknown() }))
        .describe("the old and new value of each changed setting, by its name"),
      updatedBy: text("the user who changed them"),
    })
    .describe("An organization's settings changed."),
  "org.permissionChanged": z
    .looseObject({
      orgId,
      userId: text("the member"),
      from: role("the old role"),
      to: role("the new role"),
      changedBy: text("the user who changed it"),
    })
    .describe("A member's role changed."),
  "storage.exceeded": z
    .looseObject({ orgId, usedBytes: bytes("what it stores"), quotaBytes: bytes("what its plan allows") })
    .describe("An organization stores more than its plan allows."),
} satisfies { [T in keyof EventCatalog]: z.ZodType<EventCatalog[T]> };

/** The same, of whole payloads, as JSON Schema: one of the event types, and what each carries. */
export function buildEventsSchema(): object {
  const payloads = EVENT_TYPES.map((type) => ({
    type: "object",
    properties: { event: { const: type }, data: { $ref: `#/$defs/${type}` } },
    required: ["event", "data"],
  }));
  const data = EVENT_TYPES.map((type) => {
    const { $schema: _, ...schema } = z.toJSONSchema(EVENT_SCHEMAS[type], { override: dropPattern });
    return [type, schema];
  });
  return {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    title: "The body of a request, for the event types of Flux Drop",
    type: "object",
    properties: {
      id: { type: "string", format: "uuid" },
      event: { enum: EVENT_TYPES },
      timestamp: { type: "string", format: "date-time" },
      data: { type: "object" },
    },
    required: ["id", "event", "timestamp", "data"],
    oneOf: payloads,
    $defs: Object.fromEntries(data),
  };
}

/** Leave out the pattern of a time: it is long, and `format` says the same. */
export function dropPattern({ jsonSchema }: { jsonSchema: { format?: string | undefined; pattern?: string } }): void {
  if (jsonSchema.format === "date-time") delete jsonSchema.pattern;
}
