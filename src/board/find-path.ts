/**
 * Where the board shows what a search found, and how the page says so.
 */
import type { Context } from "hono";
import type { Find } from "../operations/search.ts";
import { endpointPath } from "./endpoint-path.ts";
import { type Notice, payloadPath, userPath } from "./layout.tsx";

/** Ids in a notice: any other text could be made to say anything. */
const UUID = /^[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}$/i;

/**
 * Where a find is shown: an endpoint on its own page, all else on the user's page, with the event alone. An event that is neither logged there nor pending is shown in the
 * list of failed events, or by its payload. Undefined for a host, and for a job without a user.
 */
export function findPath(find: Find): string | undefined {
  if (find.kind === "host" || find.userId === undefined) return undefined;
  if (find.kind === "endpoint") return endpointPath(find.userId, find.endpoint.id);
  const path = userPath(find.userId);
  if (find.kind !== "user" && !find.isLogged) {
    if (find.state === "failed") return `/failed?${new URLSearchParams({ id: find.id })}`;
    if (find.state === "completed" && find.job !== undefined) return payloadPath(find.userId, find.job, find.id);
  }
  if (find.kind === "user" || path.includes("?")) return path; // the user `.` has no room for an event's id
  const name = find.kind === "job" ? "job" : UUID.test(find.found) ? `${find.kind}-${find.found}` : "event";
  const anchor = find.kind === "delivery" ? `#a-${encodeURIComponent(find.found)}` : "";
  return `${path}?${new URLSearchParams({ id: find.id, notice: `found-${name}` })}${anchor}`;
}

/** What a search found, from the `notice` of {@link findPath}; undefined for other notices. */
export function foundNotice(c: Context): Notice | undefined {
  const { notice = "", id = "" } = c.req.query();
  const [, kind, found] = /^found-(event|delivery|job)(?:-(.+))?$/.exec(notice) ?? [];
  if (kind === undefined || (found !== undefined && !UUID.test(found))) return undefined;
  const event = UUID.test(id) && id !== found ? ` of event ${id}` : "";
  const what = kind === "job" ? `the job${event}` : found === undefined ? "the event" : `${kind} ${found}${event}`;
  return { kind: "good", text: `Found ${what}.` };
}
