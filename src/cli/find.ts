/**
 * `fluxhook find`: what an id or a host is.
 */
import type { Command } from "commander";
import { createFailedEvents } from "../operations/failed-events.ts";
import {
  createSearch,
  describeReach,
  type EndpointFind,
  type Find,
  type Findings,
  type HostFind,
  MAX_SEARCH,
  type Reach,
} from "../operations/search.ts";
import { act, CommandError, type Context, EXIT, type JsonOption, readConfig, withReachable } from "./context.ts";
import { describeState, describeUrl, isoOf, nameState } from "./endpoints-output.ts";
import { readDuration } from "./input.ts";
import { printable, type Terminal } from "./terminal.ts";

interface FindOptions extends JsonOption {
  readonly for: string;
}

export function addFind(program: Command, context: Context): void {
  program
    .command("find")
    .description("find a user, an event, a delivery, a job, a registered endpoint or a host, and say which it is")
    .argument("<text>", "an id, as in webhook-id and X-Fluxdrop-Delivery, or a host")
    .option("--for <duration>", "how long to search jobs and logs", "5s")
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      `
Examples:
  $ fluxhook find 97f2c1de-3f5a-5b1c-9c39-0d6c1f0c7a11
  $ fluxhook find hooks.example.com
  $ fluxhook find 97f2c1de-3f5a-5b1c-9c39-0d6c1f0c7a11 --for 1m    # in many logs`,
    )
    .action(
      act<FindOptions, [string]>(context, async (terminal, options, text) => {
        if (text.trim() === "" || text.length > MAX_SEARCH) {
          throw new CommandError("usage", `expected 1 to ${MAX_SEARCH} characters to search for`);
        }
        const budgetMs = readDuration(options.for, "--for");
        return await withReachable(readConfig(context.env, terminal), terminal, async ({ shards }) => {
          const search = createSearch({ shards, failed: createFailedEvents(shards) });
          const findings = await search(text, { budgetMs });
          terminal.printJson(describeFindings(findings));
          showFindings(terminal, findings);
          return findings.finds.length > 0 ? EXIT.ok : EXIT.failed;
        });
      }),
    );
}

/** The findings in the words of the command's JSON. */
function describeFindings({ text, finds, hasMoreEndpoints, jobs, logs, next }: Findings) {
  const reach = (part: Reach | undefined) => part && { searched: part.searched, total: part.total };
  const searched = { jobs: reach(jobs), logs: reach(logs) };
  return { text, found: finds.map(describeFind), searched, complete: next === undefined && !hasMoreEndpoints };
}

function describeFind(find: Find) {
  if (find.kind === "user") return { kind: find.kind, user: find.userId };
  if (find.kind === "endpoint") {
    const { id, url, state, health, isDamaged = false } = find.endpoint;
    const failing = { failing_since: isoOf(health.failingSince), damaged: isDamaged };
    return { kind: find.kind, id, user: find.userId, url: describeUrl(url), state: describeState(state), ...failing };
  }
  if (find.kind === "host") {
    const { kind, host, isOpen, failed, pending, events, isComplete } = find;
    const some = events.map(({ job, event, id, userId, place }) => ({ job, event, id, user: userId ?? null, place }));
    return { kind, host, open_circuit: isOpen, failed, pending, complete: isComplete, events: some };
  }
  const { kind, found, id, event, userId, job, state } = find;
  return { kind, found, event, id, user: userId ?? null, job: job ?? null, state: state === "unknown" ? null : state };
}

const NAMES = { event: "Event", delivery: "Delivery", job: "Job" } as const;

function showFindings(terminal: Terminal, findings: Findings): void {
  const { text, finds, hasMoreEndpoints, next } = findings;
  for (const find of finds) {
    if (find.kind === "host") showHost(terminal, find);
    else if (find.kind === "endpoint") showEndpoint(terminal, find);
    else if (find.kind === "user")
      terminal.print(`User ${printable(find.userId)}: fluxhook attempts ${printable(find.userId)}`);
    else {
      const { kind, found, id, event, userId = "no user", job, state } = find;
      const of = kind === "event" ? "" : `, event ${printable(id)}`;
      const kept = state === "unknown" ? "no longer kept" : state;
      terminal.print(`${NAMES[kind]} ${printable(found)}: ${printable(event)} for ${printable(userId)}${of}`);
      terminal.print(`  job ${printable(job ?? "-")}  ${kept}`);
    }
  }
  if (hasMoreEndpoints) {
    const words = finds.length > 0 ? "There may be more endpoints" : "There may be an endpoint";
    terminal.print(`${words} ${printable(text)}: fluxhook endpoints list <user> lists all of a user.`);
  }
  if (finds.length > 0) return;
  terminal.print(`Nothing found for ${printable(text)}. Searched ${describeReach(findings)}.`);
  if (next !== undefined)
    terminal.print("Not everything was searched: give it more time with --for, or look up the user.");
}

function showEndpoint(terminal: Terminal, { userId, endpoint }: EndpointFind): void {
  const name = `${printable(userId)} ${printable(endpoint.id)}`;
  terminal.print(`Endpoint ${printable(endpoint.id)} of ${printable(userId)}: ${nameState(terminal, endpoint)}`);
  terminal.print(`  ${printable(describeUrl(endpoint.url))}`);
  terminal.print(`  fluxhook endpoints show ${name}`);
}

function showHost(terminal: Terminal, { host, isOpen, failed, pending, events, isComplete }: HostFind): void {
  const least = isComplete ? "" : "at least ";
  const circuit = isOpen ? "its circuit is open" : "no open circuit";
  terminal.print(`Host ${printable(host)}: ${circuit}, ${least}${failed} failed, ${least}${pending} pending`);
  for (const { job, event, userId, place } of events) {
    terminal.print(`  job ${printable(job)}  ${place}  ${printable(event)}  ${printable(userId ?? "no user")}`);
  }
  if (pending > events.length) terminal.print(`  … ${pending - events.length} more`);
}
