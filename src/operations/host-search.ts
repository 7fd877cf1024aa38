/**
 * Finds a host's open circuit and its kept events, for the search.
 */
import { readCircuits } from "../isolation/open-circuits.ts";
import type { JobPlace } from "../queue/layout.ts";
import type { OpenShard, OpenShards } from "../queue/open-shard.ts";
import type { AllFailedEvents } from "./failed-events.ts";
import { isAt, isMeant, parseHost, userOf } from "./job-filter.ts";
import { readIds, readJobs } from "./job-pages.ts";
import { storedEventId } from "./job-search.ts";
import { createLocateJobs, type LocateJobs } from "./registered-urls.ts";

const HOST_MS = 1000; // 1 s each for failed and for pending events
const LISTED = 20; // pending events of a host that are listed
const PAGE = 200; // job ids read at once
const PLACES = ["active", "delayed", "wait", "prioritized", "paused"] as const satisfies readonly JobPlace[];

/** A name with a top-level domain, `localhost` or an address: no id looks like that by accident. */
const HOST = /^(?:[^\s:]+\.[a-z][a-z\d-]+|localhost|\d+\.\d+\.\d+\.\d+|\[[\da-f:.]+\])(?::\d{1,5})?$/i;
/** May be a host as well as an id: it is a host if there are events for it. */
export const MAYBE_HOST: RegExp = /^[\w-]+:\d{1,5}$/;

/** Pending events in one place. */
export interface PendingEvent {
  /** The job's name, with its shard's label. */
  readonly job: string;
  /** The event type. */
  readonly event: string;
  /** The event's id. */
  readonly id: string;
  readonly userId: string | undefined;
  readonly place: JobPlace;
}

/** A host, and what is kept of its events. */
export interface HostFind {
  readonly kind: "host";
  /** With its port unless it is the scheme's default. */
  readonly host: string;
  /** Whether some worker has its circuit open. */
  readonly isOpen: boolean;
  /** Failed events. */
  readonly failed: number;
  readonly pending: number;
  /** The first pending ones. */
  readonly events: readonly PendingEvent[];
  /** Whether there was time for all kept events; otherwise both numbers are at least that high. */
  readonly isComplete: boolean;
}

interface HostSources {
  /** Those to search. */
  readonly shards: OpenShards;
  readonly all: OpenShards;
  readonly failed: AllFailedEvents;
  /** Monotonic clock, ms. */
  readonly now: () => number;
}

/**
 * Find a host's open circuit, and its kept events that are failed or pending.
 *
 * @returns undefined when the text does not look like a host
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function findHost(
  { shards, all, failed: allFailed, now }: HostSources,
  text: string,
): Promise<HostFind | undefined> {
  const host = hostIn(text);
  const wanted = host === undefined ? undefined : parseHost(host);
  if (host === undefined || wanted === undefined) return undefined;
  const [{ valkey, queue }] = shards;
  const failed = allFailed.among(shards);
  const locate = createLocateJobs(all, shards);
  const [circuits, unread] = await Promise.all([readCircuits(valkey, queue, Date.now()), failed.refresh(HOST_MS)]);
  const isOpen = circuits.some(
    (name) => name === host || (URL.canParse(`https://${name}`) && isAt(new URL(`https://${name}`), wanted)),
  );
  const isFailedComplete = unread === 0;
  const endAt = isFailedComplete ? now() + HOST_MS : Number.NEGATIVE_INFINITY;
  const found = await Promise.all(shards.map((shard) => findPendingAt(shard, wanted, { endAt, now, locate })));
  return {
    kind: "host",
    host,
    isOpen,
    failed: failed.list({ host }).length,
    pending: found.reduce((sum, { pending }) => sum + pending, 0),
    events: found.flatMap(({ events }) => events).slice(0, LISTED),
    isComplete: isFailedComplete && found.every(({ isComplete }) => isComplete),
  };
}

/** The host that a text names, as a URL or as `host[:port]`; undefined when it looks like something else. */
function hostIn(text: string): string | undefined {
  if (/^https?:\/\//i.test(text)) return URL.parse(text)?.host;
  if (!HOST.test(text) && !MAYBE_HOST.test(text)) return undefined;
  const host = parseHost(text);
  return host && (host.port === undefined ? host.hostname : `${host.hostname}:${host.port}`);
}

async function findPendingAt(
  { client: queue, valkey, label }: OpenShard,
  host: NonNullable<ReturnType<typeof parseHost>>,
  { endAt, now, locate }: { readonly endAt: number; readonly now: () => number; readonly locate: LocateJobs },
) {
  const events: PendingEvent[] = [];
  let [pending, isComplete] = [0, now() < endAt];
  for (const place of PLACES) {
    for (let from = 0; isComplete; ) {
      const ids = await readIds(queue, valkey, place, from, PAGE);
      for await (const job of readJobs(queue, valkey, ids, locate)) {
        if (!isMeant(job, { host })) continue;
        pending += 1;
        if (events.length >= LISTED) continue;
        const id = storedEventId(queue, job);
        events.push({ job: label + job.id, event: job.name, id, userId: userOf(job), place });
      }
      from += ids.length;
      if (ids.length < PAGE) break;
      isComplete = now() < endAt;
    }
  }
  return { pending, events, isComplete };
}
