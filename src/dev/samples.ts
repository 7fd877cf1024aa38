/**
 * The demo's events: one of each type.
 */
import type { JobData } from "../delivery/contract.ts";
import { EVENT_SAMPLES, type EventType } from "../events.ts";

/** The user of the demo's events. */
export const DEMO_USER = "usr_demo";

/** The secret of the demo's receiver. Public, so never use it elsewhere. */
export const DEMO_SECRET = "whsec_Zmx1eGhvb2stZGVtby1zZWNyZXQh";

/** Where the demo's receiver listens, unless the port is taken. The README's snippets send there. */
export const DEMO_ENDPOINT = "http://127.0.0.1:8484/webhooks";

/** A sample job's data, signed with {@link DEMO_SECRET}. */
export function buildSample(type: EventType, url: string): JobData {
  return { userId: DEMO_USER, endpoint: { url, secret: DEMO_SECRET }, data: EVENT_SAMPLES[type] };
}
