/**
 * `fluxhook endpoints enable`, `replay` and `test`: deliver again.
 */
import type { Command } from "commander";
import { type Replayed, type ReplayQuery, replayMissed } from "../missed/replay.ts";
import { type EndpointTest, testEndpoint } from "../operations/endpoint-test.ts";
import { formatDuration } from "../operations/moments.ts";
import { testEventOf } from "../operations/test-event.ts";
import type { OpenShard } from "../queue/open-shard.ts";
import { ConflictError } from "../registry/refusals.ts";
import { describeError, describeStatus } from "./attempts.ts";
import { act, CommandError, type Context, EXIT, type ExitCode, type JsonOption, readConfig } from "./context.ts";
import { readIds, readVersion, withHome } from "./endpoints-input.ts";
import { describeEndpoint, printEndpoint } from "./endpoints-output.ts";
import { checkEventType, readDuration, readEventTypes, readMoment } from "./input.ts";
import { printable, type Terminal } from "./terminal.ts";

const DEFAULT_WAIT = "30s";

interface EnableOptions extends JsonOption {
  readonly ifVersion?: string;
  readonly replay?: string | true;
}

export function addEnable(endpoints: Command, context: Context): void {
  endpoints
    .command("enable")
    .description("deliver to an endpoint again, whether it is paused or disabled")
    .argument("<user>", "the user's id")
    .argument("<id>", "the endpoint's id")
    .option("--replay [since]", "and what it missed: all, or since a duration ago (2h) or an ISO 8601 time")
    .option("--if-version <version>", "change nothing unless it has this version, as show prints it")
    .option("--json", "print JSON")
    .action(
      act<EnableOptions, [string, string]>(context, async (terminal, options, user, name) => {
        const { userId, id } = readIds(user, name);
        const ifVersion = readVersion(options.ifVersion);
        const { replay } = options;
        const since = typeof replay === "string" ? readMoment(replay, "--replay", Date.now()) : undefined;
        return await withHome(readConfig(context.env, terminal), userId, async ({ shard, registry }) => {
          const endpoint = await registry.enable(userId, id, { ifVersion });
          const replayed = replay === undefined ? undefined : await replayMissed(shard, userId, id, { since });
          const shown = replayed && describeReplay(replayed);
          terminal.printJson({ ...describeEndpoint(userId, endpoint), ...(shown && { replay: shown }) });
          printEndpoint(terminal, userId, endpoint, Date.now());
          if (replayed !== undefined) terminal.print(tellReplay(replayed, false));
          return EXIT.ok;
        });
      }),
    );
}

const describeReplay = ({ replayed, skipped, left }: Replayed) => ({ replayed, skipped, left });

function tellReplay({ replayed, skipped, left }: Replayed, isDry: boolean): string {
  const pending = skipped === 0 ? "" : `, ${skipped} already pending`;
  if (isDry) return `${replayed} would be replayed${pending}. Nothing was changed.`;
  return `${replayed} replayed${pending}. ${left} left.`;
}

interface ReplayOptions extends JsonOption {
  readonly since?: string;
  readonly until?: string;
  readonly dryRun?: boolean;
}

export function addReplay(endpoints: Command, context: Context): void {
  endpoints
    .command("replay")
    .description("deliver what an endpoint missed: same id and body, with the full retry schedule")
    .argument("<user>", "the user's id")
    .argument("<id>", "the endpoint's id")
    .option("--since <when>", "enqueued since a duration ago (2h) or an ISO 8601 time")
    .option("--until <when>", "enqueued until then")
    .option("--dry-run", "count what would be replayed, change nothing")
    .option("--json", "print JSON")
    .action(
      act<ReplayOptions, [string, string]>(context, async (terminal, options, user, name) => {
        const { userId, id } = readIds(user, name);
        const { since, until, dryRun = false } = options;
        const [from, to] = [since, until].map((text, index) =>
          text === undefined ? undefined : readMoment(text, index === 0 ? "--since" : "--until", Date.now()),
        );
        const query = { since: from, until: to, dryRun };
        return await withHome(readConfig(context.env, terminal), userId, async ({ shard }) => {
          return await replay(terminal, shard, userId, id, query);
        });
      }),
    );
}

async function replay(
  terminal: Terminal,
  shard: OpenShard,
  userId: string,
  id: string,
  query: ReplayQuery,
): Promise<ExitCode> {
  const replayed = await replayMissed(shard, userId, id, query).catch((error) => {
    if (!(error instanceof ConflictError)) throw error;
    throw new CommandError("failed", `${error.message}: fluxhook endpoints enable --replay does both`);
  });
  terminal.printJson({ dry_run: query.dryRun === true, ...describeReplay(replayed) });
  terminal.print(tellReplay(replayed, query.dryRun === true));
  return EXIT.ok;
}

interface TestOptions extends JsonOption {
  readonly event?: string;
  readonly wait?: string;
}

export function addTest(endpoints: Command, context: Context): void {
  endpoints
    .command("test")
    .description("send an endpoint a test event, and report the outcome; exits with 1 if it is not delivered")
    .argument("<user>", "the user's id")
    .argument("<id>", "the endpoint's id")
    .option("--event <type>", "the event type; file.created by default")
    .option("--wait <duration>", `how long to wait for the outcome, ${DEFAULT_WAIT} by default`)
    .option("--json", "print JSON")
    .action(
      act<TestOptions, [string, string]>(context, async (terminal, options, user, name) => {
        const { userId, id } = readIds(user, name);
        const events = readEventTypes(context.env);
        const type = options.event ?? testEventOf(events);
        checkEventType(type, events, "--event");
        const waitMs = readDuration(options.wait ?? DEFAULT_WAIT, "--wait");
        const config = readConfig(context.env, terminal);
        return await withHome(config, userId, async ({ shard }) => {
          const test = await testEndpoint([shard], userId, id, { type, waitMs });
          return tellTest(terminal, test, config.timeoutMs, waitMs);
        });
      }),
    );
}

function tellTest(terminal: Terminal, test: EndpointTest, timeoutMs: number, waitMs: number): ExitCode {
  const { job, state, jobState, attempt, reason } = test;
  terminal.printJson({ job, state, attempt: attempt ?? null, reason: reason ?? null });
  if (attempt !== undefined) {
    const error = describeError(attempt, timeoutMs);
    terminal.print(
      `${describeStatus(terminal, attempt)}  ${printable(attempt.duration_ms)} ms${error && `  ${error}`}`,
    );
  }
  if (state === "delivered") terminal.print(`Delivered, as job ${printable(job)}.`);
  else if (state === "failed") terminal.print(`Failed: ${printable(reason ?? "the job is gone")}`);
  else terminal.print(`Not delivered within ${formatDuration(waitMs)}: job ${printable(job)} is ${jobState}.`);
  return state === "delivered" ? EXIT.ok : EXIT.failed;
}
