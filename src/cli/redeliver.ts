/**
 * `fluxhook redeliver`: redeliver events, by job id or all that failed.
 */
import type { Command } from "commander";
import { ENDPOINT_ID } from "../delivery/limits.ts";
import { endpointName } from "../delivery/request.ts";
import { createFailedEvents, type FailedFilter } from "../operations/failed-events.ts";
import { endpointIdOf, type FilteredJob, nameRegistered, parseHost } from "../operations/job-filter.ts";
import { maskSecrets } from "../operations/mask.ts";
import { formatAgo } from "../operations/moments.ts";
import { isRedeliverable, type Redelivery, redeliverAll } from "../operations/redeliver.ts";
import type { OpenShards } from "../queue/open-shard.ts";
import type { Shard } from "../queue/shards.ts";
import type { Job } from "../queue/worker.ts";
import type { Config } from "../settings/config.ts";
import {
  act,
  CommandError,
  type Context,
  EXIT,
  type ExitCode,
  type JsonOption,
  readConfig,
  type Session,
  withValkey,
} from "./context.ts";
import { checkEventType, readEventTypes, readMoment, readUser } from "./input.ts";
import { printable, type Terminal } from "./terminal.ts";

/** Options of a command that changes many jobs. */
interface Confirmation {
  readonly dryRun?: boolean | undefined;
  readonly yes?: boolean | undefined;
}

interface RedeliverOptions extends JsonOption, Confirmation {
  readonly failed?: boolean;
  readonly since?: string;
  readonly user?: string;
  readonly host?: string;
  readonly endpoint?: string;
  readonly event?: string;
}

/** An event to redeliver, as listed. */
export interface Candidate {
  readonly job: string;
  readonly event: string;
  readonly user: string | null;
  readonly endpoint: string | null;
  readonly endpoint_id?: string;
  /** BullMQ's state; null when the job is no longer kept. */
  readonly state: string | null;
  /** When the job completed or failed, ISO 8601. */
  readonly ended_at: string | null;
  /** The same for a failed job, null for any other. */
  readonly failed_at: string | null;
  readonly reason: string | null;
}

export function addRedeliver(program: Command, context: Context): void {
  program
    .command("redeliver")
    .description("redeliver events: same id and body, with the full retry schedule")
    .argument("[job...]", "job ids, as shown by attempts and the board")
    .option("--failed", "all failed jobs that are kept: WEBHOOK_KEEP_FAILED of the last 7 days")
    .option("--since <when>", "with --failed: failed since a duration ago (2h) or an ISO 8601 time")
    .option("--user <id>", "with --failed: only of this user")
    .option("--host <host[:port]>", "with --failed: only to this host")
    .option("--endpoint <id>", "with --failed and --user: only to this registered endpoint")
    .option("--event <type>", "with --failed: only of this type")
    .option("--dry-run", "list what would be redelivered, change nothing")
    .option("--yes", "skip confirmation; required with --failed without a terminal")
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      `
Examples:
  $ fluxhook redeliver 4711
  $ fluxhook redeliver 3/4711    # in shard 3, where there are several
  $ fluxhook redeliver --failed --since 2h --user usr_42 --dry-run
  $ fluxhook redeliver --failed --since 2026-11-24T08:00:00Z --event file.created --yes`,
    )
    .action(
      act<RedeliverOptions, [string[]]>(context, async (terminal, options, jobs) => {
        const filter = readFilter(terminal, options, jobs, context.env);
        if ((filter.sinceMs ?? 0) > Date.now()) terminal.warn("--since is in the future: nothing has failed since");
        const run = async ({ shards }: Session): Promise<ExitCode> => {
          const found = options.failed ? await findFailed(shards, filter) : await lookUp(shards, jobs);
          if (options.dryRun) return showCandidates(terminal, found);
          const question = `Redeliver ${found.length} failed ${found.length === 1 ? "event" : "events"}?`;
          const isAsked = options.failed && found.length > 0;
          if (isAsked && !(await isWanted(terminal, options, question))) return EXIT.failed;
          return await redeliverShown(terminal, shards, found, options.failed);
        };
        const config = readConfig(context.env, terminal);
        return await withValkey(config, run, { shards: findNamed(config, jobs) });
      }),
    );
}

function readFilter(
  terminal: Terminal,
  options: RedeliverOptions,
  jobs: readonly string[],
  env: Context["env"],
): FailedFilter {
  const { failed, since, user, host, endpoint, event } = options;
  if (!failed === (jobs.length === 0)) throw new CommandError("usage", "expected either job ids or --failed");
  if (!failed && (since ?? user ?? host ?? endpoint ?? event) !== undefined) {
    throw new CommandError("usage", "--since, --user, --host, --endpoint and --event require --failed");
  }
  if (endpoint !== undefined && (user === undefined || !ENDPOINT_ID.test(endpoint))) {
    throw new CommandError("usage", "expected --endpoint to be the id of a registered endpoint of --user");
  }
  if (host !== undefined && parseHost(host) === undefined) {
    throw new CommandError("usage", `expected --host to be a host, as in example.com or 127.0.0.1:8080, got "${host}"`);
  }
  if (event !== undefined) checkEventType(event, readEventTypes(env), "--event");
  if (failed) requireAnswer(terminal, options, "to redeliver without confirmation, --dry-run to list");
  return {
    sinceMs: since === undefined ? undefined : readMoment(since, "--since", Date.now()),
    userId: user === undefined ? undefined : readUser(user),
    host,
    endpointId: endpoint,
    event,
  };
}

/**
 * Refuse to start a command that needs confirmation when there is no terminal to ask at.
 *
 * @param instead  completes "use --yes …"
 */
export function requireAnswer(terminal: Terminal, { yes, dryRun }: Confirmation, instead: string): void {
  if (yes || dryRun || terminal.isInteractive) return;
  throw new CommandError("usage", `no terminal to ask for confirmation: use --yes ${instead}`);
}

/** Whether to go on: asks at the terminal unless `--yes` is given. */
export async function isWanted(terminal: Terminal, { yes }: Confirmation, question: string): Promise<boolean> {
  if (yes || (await terminal.confirm(question))) return true;
  terminal.warn("nothing was changed");
  return false;
}

async function findFailed(shards: OpenShards, filter: FailedFilter): Promise<Candidate[]> {
  const failed = createFailedEvents(shards);
  await failed.refresh(undefined, filter.sinceMs);
  return failed.list(filter).map((found) => {
    const { job, event, userId = null, endpoint = null, endpointId, failedAt, reason } = found;
    const at = new Date(failedAt).toISOString();
    const where = { user: userId, endpoint, ...(endpointId !== undefined && { endpoint_id: endpointId }) };
    return { job, event, ...where, state: "failed", ended_at: at, failed_at: at, reason: reason || null };
  });
}

/** The shard in a job's name; undefined when it has none. */
const shardIn = <S extends Shard>(shards: readonly S[], name: string): S | undefined =>
  shards.find(({ label }) => label !== "" && name.startsWith(label) && name !== label);

/** The shards that jobs are in by their names, so that the others may be away; all if a name does not tell. */
function findNamed({ shards }: Config, names: readonly string[]): Config["shards"] {
  const [first, ...others] = shards.filter((shard) => names.some((name) => shardIn(shards, name) === shard));
  const isTold = names.every((name) => shardIn(shards, name) !== undefined);
  return first !== undefined && isTold ? [first, ...others] : shards;
}

/** Sequential, since a command line has only a few names. */
async function lookUp(shards: OpenShards, names: readonly string[]): Promise<Candidate[]> {
  const found: Candidate[] = [];
  for (const name of new Set(names)) {
    const named = shardIn(shards, name);
    const jobs: Candidate[] = [];
    for (const { client, label } of named === undefined ? shards : [named]) {
      const job = await client.getJob(named === undefined ? name : name.slice(label.length));
      if (job !== undefined) jobs.push(describeJob(job, await job.getState(), label));
    }
    if (jobs.length > 1) {
      throw new CommandError("usage", `${name} is in several shards: use ${jobs.map(({ job }) => job).join(" or ")}`);
    }
    found.push(jobs[0] ?? describeMissing(name));
  }
  return found;
}

function describeMissing(id: string): Candidate {
  const nothing = { user: null, endpoint: null, state: null, ended_at: null, failed_at: null };
  return { job: id, event: "-", ...nothing, reason: "the job is no longer kept" };
}

/** Describe a job without secrets or URL queries. Its data may be anything. @param label  its shard's */
export function describeJob(job: Job, state: string, label: string): Candidate {
  const { userId, endpoint } = (job.data ?? {}) as { userId?: unknown; endpoint?: { url?: unknown } | null };
  const [url, id] = [String(endpoint?.url), endpointIdOf(job as FilteredJob)];
  const endedAt = job.finishedOn === undefined ? null : new Date(job.finishedOn).toISOString();
  return {
    job: `${label}${job.id}`,
    event: job.name,
    user: typeof userId === "string" ? userId : null,
    endpoint: URL.canParse(url) ? endpointName(new URL(url)) : (id ?? null),
    ...(id !== undefined && { endpoint_id: id }),
    state,
    ended_at: endedAt,
    failed_at: state === "failed" ? endedAt : null,
    reason: maskReason(job),
  };
}

/** Our own reasons contain no secrets; those of other clients may. */
function maskReason({ data, failedReason }: Job): string | null {
  return failedReason ? String(maskSecrets(failedReason, { about: data })) : null;
}

function showCandidates(terminal: Terminal, found: readonly Candidate[]) {
  terminal.printJson({ dry_run: true, count: found.length, jobs: found });
  if (found.length > 0) {
    const heading = ["job", "state", "ended", "event", "user", "endpoint", "reason"];
    terminal.printTable([
      heading.map((name) => terminal.paint(name, "dim")),
      ...found.map(({ job, state, ended_at, event, user, endpoint, endpoint_id: id, reason }) => [
        printable(job),
        printable(state ?? "gone"),
        ended_at === null ? "-" : formatAgo(Date.now() - Date.parse(ended_at)),
        ...[event, user, id === undefined ? endpoint : nameRegistered(id, endpoint), reason].map((text) =>
          printable(text ?? "-"),
        ),
      ]),
    ]);
  }
  const gone = found.filter(({ state }) => state === null).length;
  const pending = found.filter(({ state }) => state !== null && !isRedeliverable(state)).length;
  const others = gone + pending > 0 ? `, ${pending} already pending, ${gone} gone` : "";
  terminal.print(`${found.length - gone - pending} would be redelivered${others}. Nothing was changed.`);
  return EXIT.ok;
}

async function redeliverShown(
  terminal: Terminal,
  shards: OpenShards,
  found: readonly Candidate[],
  isFailedOnly = false,
) {
  const counts: Record<Redelivery, number> = { queued: 0, pending: 0, gone: 0 };
  const jobs: { job: string; redelivery: Redelivery }[] = [];
  const bar = terminal.progress(found.length);
  try {
    await redeliverAll(
      shards,
      found.map(({ job }) => job),
      (job, redelivery) => {
        counts[redelivery] += 1;
        jobs.push({ job, redelivery });
        bar.step();
      },
      { isFailedOnly },
    );
  } catch (error) {
    bar.done();
    terminal.warn(`stopped after ${jobs.length} of ${found.length}, ${counts.queued} of them queued`);
    throw error;
  }
  bar.done();
  terminal.printJson({ ...counts, jobs });
  terminal.print(`${counts.queued} queued, ${counts.pending} already pending, ${counts.gone} gone.`);
  if (found.length <= 20) {
    for (const { job, redelivery } of jobs)
      if (redelivery !== "queued") terminal.print(`  ${printable(job)} ${redelivery}`);
  }
  return counts.gone > 0 ? EXIT.failed : EXIT.ok;
}
