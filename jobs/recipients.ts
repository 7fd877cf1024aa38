/**
 * Chooses where an event goes that names no endpoint: to all of its user's that want it.
 */
import { ContractError } from "../src/delivery/contract.ts";
import type { UserEvent } from "../src/delivery/request.ts";
import type { FannedOut, FanOut, FanOutPlan } from "../src/endpoints/fan-out.ts";
import type { FindEndpoints } from "../src/endpoints/lookup.ts";
import { notesOf } from "../src/queue/pick-ups.ts";
import { DelayedError, type Job, Parked } from "../src/queue/worker.ts";
import type { StoredEndpoint } from "../src/registry/endpoint.ts";
import { matchEndpoints } from "../src/registry/matching.ts";

export interface RecipientOptions {
  /** Without it, a job that names no URL fails. */
  readonly findEndpoints?: FindEndpoints | undefined;
  /** Without it, a job that names no endpoint fails. */
  readonly fanOut?: FanOut | undefined;
  /** Called for an event that no endpoint of its user wants. */
  readonly unwanted?: (() => void) | undefined;
  /** Epoch ms. */
  readonly now?: () => number;
}

/** The one endpoint that an event goes to. This job is its delivery. */
export interface Recipient {
  readonly id: string;
  readonly found: StoredEndpoint | "deleted" | undefined;
}

const NO_REGISTRY = "no_registry: the event names no endpoint, and its user has registered none";
const MAX_TRIES = 5; // while the user's endpoints keep changing

/**
 * Choose an event's endpoints. Those of its first run count, also when it is retried.
 *
 * @returns the one endpoint; or the result with which the job is completed, once the deliveries to several are made, or when no
 *          endpoint wants it
 * @throws  ContractError when the user has no registry; DelayedError when another worker has the job; Parked when it is to be
 *          looked up anew
 */
export async function chooseRecipient(
  event: UserEvent,
  job: Job,
  { findEndpoints, fanOut, unwanted, now = Date.now }: RecipientOptions,
): Promise<Recipient | string> {
  if (findEndpoints === undefined || fanOut === undefined) throw new ContractError([], NO_REGISTRY);
  const { pinnedTo, isFannedOut, confirmed } = notesOf(job);
  for (let tries = 0; tries < MAX_TRIES; tries++) {
    const { version, endpoints } = await findEndpoints(event.userId, { after: confirmed, isAnew: tries > 0 });
    if (!isFannedOut && pinnedTo !== undefined) return { id: pinnedTo, found: endpoints.get(pinnedTo) };
    let plan: FanOutPlan | undefined; // a job whose deliveries were made has its own
    let younger: readonly string[] = [];
    if (!isFannedOut) {
      if (version === "" && endpoints.size === 0) throw new ContractError([], NO_REGISTRY);
      const all = [...endpoints.values()].filter((endpoint) => endpoint !== "deleted");
      const matching = matchEndpoints(all, event.type, event.timestampMs);
      const [found, second] = matching.endpoints;
      younger = matching.younger;
      if (found !== undefined && second === undefined) return { id: found.id, found };
      if (found === undefined) {
        unwanted?.();
        return `no endpoint wants it${describeYounger(younger)}`;
      }
      plan = { version, endpointIds: matching.endpoints.map(({ id }) => id) };
    }
    const made = await fanOut(job, event, plan);
    if (made.kind === "lost") throw new DelayedError();
    if (made.kind === "done") return describe(made) + describeYounger(younger);
  }
  throw new Parked(now());
}

/** `to 3 endpoints, 1 missed`. */
function describe({ added, missed, isAgain }: Extract<FannedOut, { kind: "done" }>): string {
  const phrase = `to ${added} ${added === 1 ? "endpoint" : "endpoints"}${missed > 0 ? `, ${missed} missed` : ""}`;
  return isAgain ? `again ${phrase}` : phrase;
}

function describeYounger(ids: readonly string[]): string {
  return ids.length === 0 ? "" : `; not to younger ones: ${ids.join(", ")}`;
}
