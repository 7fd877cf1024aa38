/** @jsxImportSource hono/jsx */
/**
 * The first page: look up a user, and the queue at a glance.
 */
import type { FC } from "hono/jsx";
import { formatSpan } from "../operations/moments.ts";
import { type Failure, RECENT_MINUTES, type Summary, type Tally } from "../operations/summary.ts";
import { printable } from "../runtime/printable.ts";
import { namedEndpointPath } from "./endpoint-path.ts";
import { HeldPanel } from "./held-panel.tsx";
import { Ago, jobPath, Layout, LiveSwitch, Mark, type Notice, queuePath, type Site, userPath } from "./layout.tsx";
import { MinutesChart } from "./minutes-chart.tsx";
import type { Overview } from "./overview.ts";
import { Search } from "./search.tsx";
import { ShardTable } from "./shard-table.tsx";

export interface HomePageProps {
  readonly site: Site;
  readonly overview: Overview;
  readonly notice: Notice | undefined;
  /** Text in the search box. */
  readonly search: string;
  /** Epoch ms. */
  readonly now: number;
}

export const HomePage: FC<HomePageProps> = ({ site, overview, notice, search, now }) => (
  <Layout site={site} title="Overview" notice={notice} isLive>
    <h1 class="unseen">Overview</h1>
    <Search value={search} isLarge />
    <div id="live">
      <div class="head">
        <Verdict overview={overview} />
        <LiveSwitch path="/" />
      </div>
      <Figures site={site} summary={overview} />
      {site.shards.length > 1 && <ShardTable site={site} shards={overview.shards} />}
      <HeldPanel site={site} holds={overview.holds} now={now} />
      <div class="columns">
        <section class="panel">
          <h2>Finished in the last 30 minutes</h2>
          <MinutesChart site={site} minutes={overview.minutes} />
          <Deliveries site={site} attempts={overview.attempts} />
        </section>
        <Circuits hosts={overview.circuits} />
      </div>
      <Failures site={site} failures={overview.failures} now={now} />
    </div>
  </Layout>
);

/** What is wrong, worst first, and what to do about it; or how well it goes. */
const Verdict: FC<{ overview: Overview }> = ({ overview }) => {
  const [worst, ...others] = overview.problems;
  if (worst === undefined) {
    return (
      <p class="verdict good">
        <Mark kind="good" />
        <span>{describeHealth(overview)}</span>
      </p>
    );
  }
  return (
    <div>
      <p class={`verdict ${KINDS[worst.severity]}`}>
        <Mark kind={KINDS[worst.severity]} />
        <span>
          {printable(worst.text)}. <small>{worst.todo}.</small>
        </span>
      </p>
      {others.length > 0 && (
        <ul class="problems">
          {others.map(({ code, severity, text, todo }) => (
            <li id={`p-${code}`} class={KINDS[severity]}>
              <Mark kind={KINDS[severity]} />
              <span>
                {printable(text)}. <small>{todo}.</small>
              </span>
            </li>
          ))}
        </ul>
      )}
    </div>
  );
};

const KINDS = { critical: "bad", warning: "wait" } as const;

function describeHealth({ counts, circuits }: Overview): string {
  const health = counts.waiting + counts.active > 0 ? "Delivering on time" : "Up to date";
  if (circuits.length === 0) return health;
  return `${health}, except for ${circuits.length === 1 ? "one host that does" : `${formatCount(circuits.length)} hosts that do`} not respond`;
}

const Figures: FC<{ site: Site; summary: Summary }> = ({ site, summary }) => {
  const { counts, oldestWaitingMs, completed, failed, workers } = summary;
  const isOne = site.shards.length === 1;
  const at = (state: string) => (isOne ? `${queuePath(site, site.shards[0])}?status=${state}` : "#shards");
  return (
    <dl class="figures">
      <Figure
        name="Waiting"
        href={at("waiting")}
        note={oldestWaitingMs === undefined ? "none" : `oldest ${formatSpan(oldestWaitingMs)}`}
      >
        {formatCount(counts.waiting)}
      </Figure>
      <Figure name="Active" href={at("active")} note={describeWorkers(workers)}>
        {formatCount(counts.active)}
      </Figure>
      <Figure name="Delayed" href={at("delayed")} note="retrying or held back">
        {formatCount(counts.delayed)}
      </Figure>
      <Figure name="Completed" href={at("completed")} note={describeSpan(completed)} kind="good">
        {formatTally(completed)}
      </Figure>
      <Figure name="Failed" href="/failed" note={describeSpan(failed)} kind={failed.count > 0 ? "bad" : undefined}>
        {formatTally(failed)}
      </Figure>
    </dl>
  );
};

/** How many attempts succeeded, since a completed job need not be a delivery. */
const Deliveries: FC<{ site: Site; attempts: Summary["attempts"] }> = ({ site, attempts }) => {
  const { made, failed, pendingBefore } = attempts;
  const isKnown = made > 0 || pendingBefore !== undefined; // workers of 0.1.0 do not tally
  return (
    <>
      {isKnown && (
        <p class="note">
          {made === 0 ? "No" : formatCount(made)} {made === 1 ? "attempt" : "attempts"} in the last {RECENT_MINUTES} min
          {made > 0 && `, ${formatCount(made - failed)} answered with 2xx`}.
        </p>
      )}
      {site.hasEndpoints && (
        <p class="note">
          Completed is not always delivered: an event completes, too, when no endpoint wants it, when it is kept as
          missed, when its endpoint was deleted, and when it was handed on to several endpoints or another shard.
        </p>
      )}
    </>
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

const SHOWN_HOSTS = 6;

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
        <Hosts hosts={hosts.slice(0, SHOWN_HOSTS)} />
        {hosts.length > SHOWN_HOSTS && (
          <details id="more-hosts">
            <summary>{formatCount(hosts.length - SHOWN_HOSTS)} more</summary>
            <Hosts hosts={hosts.slice(SHOWN_HOSTS)} />
          </details>
        )}
      </>
    )}
  </section>
);

const Hosts: FC<{ hosts: readonly string[] }> = ({ hosts }) => (
  <ul class="hosts">
    {hosts.map((host) => (
      <li>
        <Mark kind="wait" />
        <code>{printable(host)}</code>
      </li>
    ))}
  </ul>
);

const Failures: FC<{ site: Site; failures: readonly Failure[]; now: number }> = ({ site, failures, now }) => (
  <section class="panel">
    <h2 class="with-link">Recent failures {failures.length > 0 && <a href="/failed">All failed events</a>}</h2>
    {failures.length === 0 ? (
      <p class="calm">
        <Mark kind="good" /> None.
      </p>
    ) : (
      <ul class="failures">
        {failures.map(({ job, event, userId, host, endpointId, reason, failedAt }) => (
          <li id={`f-${job}`}>
            <span class="who">{userId === undefined ? "no user" : <a href={userPath(userId)}>{userId}</a>}</span>
            <span class="event">{printable(event)}</span>
            <span class="reason" title={printable(reason)}>
              {printable(reason)}
            </span>
            <span class="host">
              <FailureHost userId={userId} id={endpointId} host={host} />
            </span>
            <span class="when">
              <Ago at={failedAt} now={now} />
            </span>
            <a class="job" href={jobPath(site, job)} title={printable(job)}>
              job {printable(shorten(job))}
            </a>
          </li>
        ))}
      </ul>
    )}
  </section>
);

/** The host, which leads to the endpoint's page if it is registered. */
const FailureHost: FC<Pick<Failure, "userId" | "host"> & { id: string | undefined }> = ({ userId, id, host }) => {
  const path = namedEndpointPath(userId, id);
  const name = printable(host ?? id ?? "no valid URL");
  return <>{path === undefined ? name : <a href={path}>{name}</a>}</>;
};

/** Ids of more than a few characters, such as UUIDs, are told apart by their beginning. */
const shorten = (id: string) => (id.length > 10 ? `${id.slice(0, 8)}…` : id);
