/**
 * Event types, and the shape of events for the backend that enqueues them and for the customer who receives them. Imports
 * nothing.
 */

/** All event types. A job's name is one of these. */
export const EVENT_TYPES = [
  "file.created",
  "file.deleted",
  "file.downloaded",
  "share.linked",
  "share.deleted",
  "org.userAdded",
  "org.userRemoved",
  "org.updated",
  "org.permissionChanged",
  "storage.exceeded",
] as const;

export type EventType = (typeof EVENT_TYPES)[number];

/**
 * The `data` of each event type. Empty by default: a backend or receiver declares its own types by declaration merging.
 * Event types that are not declared carry any JSON object.
 *
 * ```ts
 * declare module "fluxhook/events" {
 *   interface EventData {
 *     "file.created": { fileId: string; name: string };
 *   }
 * }
 * ```
 */
// biome-ignore lint/suspicious/noEmptyInterface: for declaration merging
export interface EventData {}

/** The data of an event type; `Otherwise` when {@link EventData} does not declare it. */
export type DataOf<T extends EventType, Otherwise = object> = T extends keyof EventData ? EventData[T] : Otherwise;

/** An event of one type, as a backend enqueues it. */
export interface NewEventOf<T extends EventType> {
  readonly event: T;
  /** The user whose log gets the attempts; 1 to 128 visible ASCII characters. */
  readonly userId: string;
  readonly endpoint: {
    /** http or https, without user name and password. */
    readonly url: string;
    /** One secret, or several during rotation: current first, at most 10. */
    readonly secret: string | readonly string[];
  };
  /** The event's own data: any JSON object. */
  readonly data: DataOf<T>;
  /** A UUID, the payload's `id`. Enqueueing the same id again is harmless. Generated when missing. */
  readonly id?: string | undefined;
}

/** An event to deliver. */
export type NewEvent = { [T in EventType]: NewEventOf<T> }[EventType];

/** The body of a request, for one event type. */
export interface PayloadOf<T extends EventType> {
  /** A UUID, the same on every attempt: deduplicate by it. */
  readonly id: string;
  readonly event: T;
  /** When the backend enqueued the event, ISO 8601 with milliseconds. */
  readonly timestamp: string;
  readonly data: DataOf<T, Readonly<Record<string, unknown>>>;
}

/** The body of a request; discriminated by `event`. */
export type WebhookPayload = { [T in EventType]: PayloadOf<T> }[EventType];
