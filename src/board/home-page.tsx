/** @jsxImportSource hono/jsx */
/**
 * The first page: look up a user, and the queue at a glance.
 */
import type { FC } from "hono/jsx";
import { formatSpan } from "../operations/moments.ts";
import { judgeQueue } from "../operations/queue-problems.ts";
import { type Failure, RECENT_MINUTES, type Summary, type Tally } from "../operations/summary.ts";
import { printable } from "../runtime/printable.ts";
import { Ago, jobPath, Layout, LiveSwitch, Mark, type Notice, type Site, userPath } from "./layout.tsx";
import { MinutesChart } from "./minutes-chart.tsx";
import { Search } from "./search.tsx";

export interface HomePageProps {
  readonly site: Site;
  readonly summary: Summary;
  readonly notice: Notice | undefined;
  /** Text in the search box. */
  readonly search: string;
  /** Epoch ms. */
  readonly now: number;
}

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

/** One sentence on the health of the queue. */
const Verdict: FC<{ summary: Summary }> = ({ summary }) => {
  const { kind, text } = describeHealth(summary);
  return (
    <p class={`verdict ${kind}`}>
      <Mark kind={kind} />
      {text}
    </p>
  );
};

/** The worst problem, or else how well it goes. */
function describeHealth(summary: Summary): Notice {
  const [worst] = judgeQueue(summary);
  if (worst !== undefined) {
    const isHarmless = worst.kind === "paused" || worst.kind === "late"; // the events wait unharmed
    return { kind: isHarmless ? "wait" : "bad", text: `${worst.text}.` };
  }
  if (summary.counts.waiting + summary.counts.active > 0) return { kind: "good", text: "Delivering on time" };
  return { kind: "good", text: "Up to date" };
}

const Figures: FC<{ site: Site; summary: Summary }> = ({ site, summary }) => {
  const { counts, oldestWaitingMs, delivered, failed, workers } = summary;
  const queue = `${site.bullBoard}/queue/${encodeURIComponent(site.queue)}?status=`;
  return (
    <dl class="figures">
      <Figure
        name="Waiting"
        href={`${queue}waiting`}
        note={oldestWaitingMs === undefined ? "none" : `oldest ${formatSpan(oldestWaitingMs)}`}
      >
        {formatCount(counts.waiting)}
      </Figure>
      <Figure name="Active" href={`${queue}active`} note={describeWorkers(workers)}>
        {formatCount(counts.active)}
      </Figure>
      <Figure name="Delayed" href={`${queue}delayed`} note="retrying or held back">
        {formatCount(counts.delayed)}
      </Figure>
      <Figure name="Completed" href={`${queue}completed`} note={describeSpan(delivered)} kind="good">
        {formatTally(delivered)}
      </Figure>
      <Figure
        name="Failed"
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
const describeSpan = ({ isLeast }: Tally) => `last ${RECENT_MINUTES} min${isLeast ? ", at least" : ""}`;

function describeWorkers(workers: number | undefined): string {
  if (workers === undefined) return "worker count unknown";
  return workers === 1 ? "1 worker" : `${workers} workers`;
}

const Circuits: FC<{ hosts: readonly string[] }> = ({ hosts }) => (
  <section class="panel">
    <h2>Open circuits</h2>
    {hosts.length === 0 ? (
      <p class="calm">
        <Mark kind="good" /> None: all endpoints are responding.
      </p>
    ) : (
      <>
        <p>These hosts are not responding. Each gets one probe at a time; its other events wait, and none are lost:</p>
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
    <h2>Recent failures</h2>
    {failures.length === 0 ? (
      <p class="calm">
        <Mark kind="good" /> None.
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
