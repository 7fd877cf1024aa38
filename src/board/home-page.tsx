/** @jsxImportSource hono/jsx */
/**
 * The first page: look up a user, and the queue at a glance.
 */
import type { FC } from "hono/jsx";
import { formatSpan } from "../operations/moments.ts";
import type { Failure, Summary, Tally } from "../operations/summary.ts";
import { printable } from "../runtime/printable.ts";
import { Ago, jobPath, Layout, LiveSwitch, Mark, type Notice, Search, type Site, userPath } from "./layout.tsx";
import { MinutesChart } from "./minutes-chart.tsx";

export interface HomePageProps {
  readonly site: Site;
  readonly summary: Summary;
  readonly notice: Notice | undefined;
  /** What stands in the search box. */
  readonly search: string;
  /** Epoch ms. */
  readonly now: number;
}

const LONG_WAIT_MS = 60 * 1000; // 1 min: a worker with room takes a job within milliseconds

export const HomePage: FC<HomePageProps> = ({ site, summary, notice, search, now }) => (
  <Layout site={site} title="Overview" notice={notice} isLive>
    <h1 class="unseen">Overview</h1>
    <Search value={search} isLarge />
    <div id="live">
      <div class="head">
        <Verdict summary={summary} />
        <LiveSwitch path="/" />
      </div>
      <Figures site={site} summary={summary} />
      <div class="columns">
        <section class="panel">
          <h2>Finished in the last 30 minutes</h2>
          <MinutesChart minutes={summary.minutes} />
        </section>
        <Circuits hosts={summary.circuits} />
      </div>
      <Failures site={site} failures={summary.failures} now={now} />
    </div>
  </Layout>
);

/** One sentence on whether all is well. */
const Verdict: FC<{ summary: Summary }> = ({ summary }) => {
  const { kind, text } = judgeQueue(summary);
  return (
    <p class={`verdict ${kind}`}>
      <Mark kind={kind} />
      {text}
    </p>
  );
};

function judgeQueue({ isPaused, workers, counts, oldestWaitingMs = 0, strays = 0 }: Summary): Notice {
  if (strays > 0) {
    return { kind: "bad", text: `${strays} events are in none of the queue's lists: fluxhook recover puts them back.` };
  }
  if (workers === 0) return { kind: "bad", text: "No worker is connected: nothing is delivered." };
  if (isPaused) return { kind: "wait", text: "The queue is paused: nothing is delivered until it is resumed." };
  if (oldestWaitingMs > LONG_WAIT_MS) {
    return {
      kind: "wait",
      text: `Events wait for ${formatSpan(oldestWaitingMs)}: there is more to do than the workers can.`,
    };
  }
  if (counts.waiting + counts.active > 0) return { kind: "good", text: "Delivering, and nothing waits for long." };
  return { kind: "good", text: "All is delivered that can be: nothing waits for a worker." };
}

const Figures: FC<{ site: Site; summary: Summary }> = ({ site, summary }) => {
  const { counts, oldestWaitingMs, delivered, failed, workers } = summary;
  const queue = `${site.bullBoard}/queue/${encodeURIComponent(site.queue)}?status=`;
  return (
    <dl class="figures">
      <Figure
        name="Waiting"
        href={`${queue}waiting`}
        note={oldestWaitingMs === undefined ? "none waits" : `oldest ${formatSpan(oldestWaitingMs)}`}
      >
        {formatCount(counts.waiting)}
      </Figure>
      <Figure name="Under way" href={`${queue}active`} note={describeWorkers(workers)}>
        {formatCount(counts.active)}
      </Figure>
      <Figure name="Delayed" href={`${queue}delayed`} note="retries, and held back">
        {formatCount(counts.delayed)}
      </Figure>
      <Figure name="Delivered" href={`${queue}completed`} note={describeSpan(delivered)} kind="good">
        {formatTally(delivered)}
      </Figure>
      <Figure
        name="Given up"
        href={`${queue}failed`}
        note={describeSpan(failed)}
        kind={failed.count > 0 ? "bad" : undefined}
      >
        {formatTally(failed)}
      </Figure>
    </dl>
  );
};

const Figure: FC<{ name: string; href: string; note: string; kind?: string | undefined; children?: string }> = ({
  name,
  href,
  note,
  kind,
  children,
}) => (
  <div class={kind}>
    <dt>
      <a href={href}>{name}</a>
    </dt>
    <dd class="number">{children}</dd>
    <dd class="note">{note}</dd>
  </div>
);

const formatCount = (count: number) => count.toLocaleString("en-US");
const formatTally = ({ count, isLeast }: Tally) => `${formatCount(count)}${isLeast ? "+" : ""}`;
const describeSpan = ({ isLeast }: Tally) => (isLeast ? "last 5 min, at least" : "last 5 min");

function describeWorkers(workers: number | undefined): string {
  if (workers === undefined) return "by the workers";
  return workers === 1 ? "1 worker" : `${workers} workers`;
}

const Circuits: FC<{ hosts: readonly string[] }> = ({ hosts }) => (
  <section class="panel">
    <h2>Open circuits</h2>
    {hosts.length === 0 ? (
      <p class="calm">
        <Mark kind="good" /> None: no endpoint is silent.
      </p>
    ) : (
      <>
        <p>These hosts do not answer. They get one probe at a time, and their events wait unharmed:</p>
        <ul class="hosts">
          {hosts.map((host) => (
            <li>
              <Mark kind="wait" />
              <code>{printable(host)}</code>
            </li>
          ))}
        </ul>
      </>
    )}
  </section>
);

const Failures: FC<{ site: Site; failures: readonly Failure[]; now: number }> = ({ site, failures, now }) => (
  <section class="panel">
    <h2>Given up lately</h2>
    {failures.length === 0 ? (
      <p class="calm">
        <Mark kind="good" /> None is kept.
      </p>
    ) : (
      <ul class="failures">
        {failures.map(({ job, event, userId, reason, failedAt }) => (
          <li id={`f-${job}`}>
            <span class="who">{userId === undefined ? "no user" : <a href={userPath(userId)}>{userId}</a>}</span>
            <span class="event">{printable(event)}</span>
            <span class="reason" title={printable(reason)}>
              {printable(reason)}
            </span>
            <span class="when">
              <Ago at={failedAt} now={now} />
            </span>
            <a class="job" href={jobPath(site, job)}>
              job {printable(job)}
            </a>
          </li>
        ))}
      </ul>
    )}
  </section>
);
