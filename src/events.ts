/**
 * Event types, what each carries, and the shape of events for the backend that enqueues them and for the customer who receives
 * them. Imports nothing.
 */

/** The event types of Flux Drop: those of an installation that does not set `WEBHOOK_EVENTS`. */
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

/** A member's role in an organization. */
export type Role = "viewer" | "editor" | "admin";

/** What `data` holds for each of {@link EVENT_TYPES}. Fields may be added later, so receivers ignore those they do not know. */
export interface EventCatalog {
  /** A file was uploaded. */
  "file.created": {
    fileId: string;
    name: string;
    /** The folder's path, from the root. */
    folder: string;
    sizeBytes: number;
    /** The media type, such as `application/pdf`. */
    contentType: string;
    /** A user id. */
    uploadedBy: string;
  };
  /** A file was deleted. */
  "file.deleted": {
    fileId: string;
    name: string;
    folder: string;
    /** A user id. */
    deletedBy: string;
    /** Whether it skipped the trash, so that it cannot be restored. */
    isPermanent: boolean;
  };
  /** A file was downloaded, by a user or through a shared link. */
  "file.downloaded": {
    fileId: string;
    name: string;
    /** A user id; null when somebody without an account downloaded it. */
    downloadedBy: string | null;
    /** The shared link; null when it was not downloaded through one. */
    shareId: string | null;
    ipAddress: string;
  };
  /** A link to a file was created. */
  "share.linked": {
    shareId: string;
    fileId: string;
    url: string;
    hasPassword: boolean;
    /** When the link stops working, ISO 8601; null when it never does. */
    linkExpiresAt: string | null;
    /** A user id. */
    createdBy: string;
  };
  /** A link stopped working. */
  "share.deleted": {
    shareId: string;
    fileId: string;
    reason: "deleted" | "expired";
    /** A user id; null when the link expired. */
    deletedBy: string | null;
  };
  /** A user joined an organization. */
  "org.userAdded": { orgId: string; userId: string; email: string; role: Role; addedBy: string };
  /** A user left an organization, or was removed from it. */
  "org.userRemoved": { orgId: string; userId: string; email: string; removedBy: string };
  /** An organization's settings changed. `changes` has each changed setting, by name. */
  "org.updated": { orgId: string; changes: Record<string, { from: unknown; to: unknown }>; updatedBy: string };
  /** A member's role changed. */
  "org.permissionChanged": { orgId: string; userId: string; from: Role; to: Role; changedBy: string };
  /** An organization stores more than its plan allows. */
  "storage.exceeded": { orgId: string; usedBytes: number; quotaBytes: number };
}

/** A sample of the data of each event type, as `fluxhook trigger` and `npm start` send it. Also useful in tests of a receiver. */
export const EVENT_SAMPLES: Readonly<EventCatalog> = {
  "file.created": {
    fileId: "file_8XkQ2m",
    name: "Q3 report.pdf",
    folder: "/Reports/2026",
    sizeBytes: 2_481_152,
    contentType: "application/pdf",
    uploadedBy: "usr_42",
  },
  "file.deleted": {
    fileId: "file_3ZpL9c",
    name: "draft (old).docx",
    folder: "/Drafts",
    deletedBy: "usr_108",
    isPermanent: false,
  },
  "file.downloaded": {
    fileId: "file_8XkQ2m",
    name: "Q3 report.pdf",
    downloadedBy: null,
    shareId: "shr_5hGt",
    ipAddress: "203.0.113.24",
  },
  "share.linked": {
    shareId: "shr_5hGt",
    fileId: "file_8XkQ2m",
    url: "https://fluxdrop.example/s/5hGt",
    hasPassword: true,
    linkExpiresAt: "2026-12-31T23:00:00.000Z",
    createdBy: "usr_42",
  },
  "share.deleted": { shareId: "shr_1aBc", fileId: "file_3ZpL9c", reason: "expired", deletedBy: null },
  "org.userAdded": {
    orgId: "org_77",
    userId: "usr_108",
    email: "mira@nordlicht.example",
    role: "editor",
    addedBy: "usr_42",
  },
  "org.userRemoved": { orgId: "org_77", userId: "usr_91", email: "ole@nordlicht.example", removedBy: "usr_42" },
  "org.updated": {
    orgId: "org_77",
    changes: { name: { from: "Nordlicht", to: "Nordlicht Studio" } },
    updatedBy: "usr_42",
  },
  "org.permissionChanged": { orgId: "org_77", userId: "usr_108", from: "editor", to: "admin", changedBy: "usr_42" },
  "storage.exceeded": { orgId: "org_77", usedBytes: 1_101_659_111_424, quotaBytes: 1_099_511_627_776 }, // 1 TiB
};

/**
 * The `data` of each event type. Empty by default, so that every event carries any JSON object: a backend or receiver declares
 * types by declaration merging, its own or those of {@link EventCatalog}. A name that is not in {@link EVENT_TYPES} becomes an
 * event type; list it in `WEBHOOK_EVENTS` and in the `events` of `createFluxhook` too.
 *
 * ```ts
 * declare module "fluxhook/events" {
 *   interface EventData extends EventCatalog {
 *     "invoice.paid": { invoiceId: string; cents: number };
 *   }
 * }
 * ```
 */
// biome-ignore lint/suspicious/noEmptyInterface: for declaration merging
export interface EventData {}

/** An event type: one of Flux Drop's, or one that {@link EventData} declares. */
export type EventType = (typeof EVENT_TYPES)[number] | (keyof EventData & string);

/** The data of an event type; `Otherwise` when {@link EventData} does not declare it. */
export type DataOf<T extends EventType, Otherwise = object> = T extends keyof EventData ? EventData[T] : Otherwise;

/** An endpoint that an event names in full. */
export interface InlineEndpoint {
  /** http or https, without user name and password. */
  readonly url: string;
  /** One secret, or several during rotation: current first, at most 10. */
  readonly secret: string | readonly string[];
  readonly id?: undefined;
}

/** One of the user's registered endpoints. Its URL and secrets are those that it has at each attempt. */
export interface RegisteredEndpoint {
  /** As in the registry. */
  readonly id: string;
  readonly url?: undefined;
  readonly secret?: undefined;
}

/** An event of one type, as a backend enqueues it. */
export interface NewEventOf<T extends EventType> {
  readonly event: T;
  /** The user whose log gets the attempts; 1 to 128 visible ASCII characters. */
  readonly userId: string;
  /** Without it, the event goes to all of the user's registered endpoints that want it. Workers need `WEBHOOK_REGISTRY=1`, and the package the option `registry`. */
  readonly endpoint?: InlineEndpoint | RegisteredEndpoint | undefined;
  /** The event's own data: any JSON object. */
  readonly data: DataOf<T>;
  /** A UUID, the payload's `id`. Enqueueing the same id again is harmless. Generated when missing. */
  readonly id?: string | undefined;
  /** No attempt begins at this time or later: the event then fails as `expired`. A string is ISO 8601 with its zone. */
  readonly expiresAt?: Date | string | undefined;
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
