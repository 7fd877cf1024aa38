/**
 * The events: their types, and how they look to the backend that enqueues them and to the customer who receives them.
 * Imports nothing.
 */

/** Every event type there is. A job's name is one of these. */
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
 * What an event of a type carries as its `data`. Empty here: a backend or a receiver says what it knows, by declaration
 * merging, and both ends of the queue are held to it. A type that is not in it carries any JSON object.
 *
 * ```ts
 * declare module "fluxhook/events" {
 *   interface EventData {
 *     "file.created": { fileId: string; name: string };
 *   }
 * }
 * ```
 */
// biome-ignore lint/suspicious/noEmptyInterface: there to be merged with
export interface EventData {}

/** The data of an event type, where {@link EventData} says nothing: `Otherwise`. */
export type DataOf<T extends EventType, Otherwise = object> = T extends keyof EventData ? EventData[T] : Otherwise;

/** An event of one type, as a backend enqueues it. */
export interface NewEventOf<T extends EventType> {
  readonly event: T;
  /** Whose log the attempts go to; 1 to 128 visible ASCII characters. */
  readonly userId: string;
  readonly endpoint: {
    /** http or https, without user name and password. */
    readonly url: string;
    /** One, or several while the customer rotates: current first, 10 at the most. */
    readonly secret: string | readonly string[];
  };
  /** The event's own data: any JSON object. */
  readonly data: DataOf<T>;
  /** A UUID: the payload's `id`, and what makes enqueueing it again harmless. Made up when it is missing. */
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

/** The body of a request, to be told apart by `event`. */
export type WebhookPayload = { [T in EventType]: PayloadOf<T> }[EventType];
