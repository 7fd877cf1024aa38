/** @jsxImportSource hono/jsx */
/**
 * An event's payload as its endpoint gets it: the request's headers and its body.
 */

import type { FC } from "hono/jsx";
import type { ContractIssue } from "../delivery/contract.ts";
import type { Payload } from "../operations/payload.ts";
import { printable } from "../runtime/printable.ts";
import { CodeBlock } from "./copy-button.tsx";
import { CopyableIds } from "./copyable-ids.tsx";
import { EndpointName } from "./endpoint-name.tsx";
import { Ago, jobPath, Layout, type Site, userPath } from "./layout.tsx";
import { filteredPath } from "./user-filter.tsx";

interface PayloadPageProps {
  readonly site: Site;
  readonly userId: string;
  /** The job's id. */
  readonly job: string;
  readonly payload: Payload | readonly ContractIssue[] | undefined;
  /** Epoch ms. */
  readonly now: number;
}

/** @param payload  what breaks the contract when nothing can be sent; undefined when the job is no longer kept */
export const PayloadPage: FC<PayloadPageProps> = ({ site, userId, job, payload, now }) => (
  <Layout site={site} title={`Payload of job ${printable(job)}`} search="" isLive>
    <p class="back">
      <a href={userPath(userId)}>← {userId}</a>
    </p>
    {payload === undefined ? (
      <Gone job={job} />
    ) : "body" in payload ? (
      <Shown site={site} userId={userId} job={job} payload={payload} now={now} />
    ) : (
      <Broken site={site} job={job} issues={payload} />
    )}
  </Layout>
);

const Shown: FC<PayloadPageProps & { payload: Payload }> = ({ site, userId, job, payload, now }) => {
  const { id, event, endpoint, enqueuedAt, head, body, formatted, bytes, isMasked, isCut } = payload;
  return (
    <>
      <p class="eyebrow">Payload</p>
      <h1 class="payload-event">{printable(event)}</h1>
      <EndpointName url={endpoint} userId={userId} id={endpoint} />
      <p class="ids">
        <CopyableIds site={site} id={id} job={job} />
        <span>
          enqueued <Ago at={enqueuedAt} now={now} />
        </span>
        <a href={filteredPath(userId, { id })}>Attempts</a>
      </p>
      <section class="payload">
        <h2>Request</h2>
        <CodeBlock id="request" what="request headers" text={head} />
        <p class="note">
          Signatures are not shown. What is in angle brackets differs between attempts; the rest is the same on every
          one.
        </p>
        <h2>
          Body <span class="count">{bytes.toLocaleString("en-US")} bytes</span>
        </h2>
        <CodeBlock id="body" what="body" text={body} />
        <p class="note">
          {isMasked
            ? "Secrets and the queries of URLs are masked with *** on this page. The endpoint gets the event without masks."
            : "This is exactly what the endpoint gets, byte for byte, apart from invisible characters, which are escaped here."}
          {isCut && " Only the beginning is shown."}
        </p>
        {formatted !== undefined && (
          <details class="formatted">
            <summary>Formatted</summary>
            <CodeBlock id="formatted" what="formatted body" text={formatted} />
          </details>
        )}
      </section>
    </>
  );
};

const Gone: FC<{ job: string }> = ({ job }) => (
  <section class="empty">
    <h1>Payload not available</h1>
    <p>
      The event's data is in its job, and job <code>{printable(job)}</code> is not kept any longer, cannot be read, or
      belongs to another event by now. The queue keeps the latest completed and failed jobs only; the log of attempts
      holds no payloads.
    </p>
  </section>
);

const Broken: FC<{ site: Site; job: string; issues: readonly ContractIssue[] }> = ({ site, job, issues }) => (
  <section class="empty">
    <h1>Not sent: the event is invalid</h1>
    <p>
      <a href={jobPath(site, job)}>Job {printable(job)}</a> does not match the contract, so no request is made from it:
    </p>
    <ul>
      {issues.map(({ path, message }) => (
        <li>
          <b>{printable(path)}</b> {printable(message)}
        </li>
      ))}
    </ul>
  </section>
);
