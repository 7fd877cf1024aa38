/** @jsxImportSource hono/jsx */
/**
 * One attempt on a user's page, and what is kept of its response.
 */
import type { FC } from "hono/jsx";
import { nameError } from "../delivery/outcome.ts";
import type { Attempt, KeptResponse } from "../log/attempts.ts";
import type { LoggedAttempt } from "../log/deliveries.ts";
import { adviceFor } from "../operations/advice.ts";
import { formatDuration } from "../operations/moments.ts";
import { printable, printableLines } from "../runtime/printable.ts";
import { CodeBlock, Copyable } from "./copy-button.tsx";
import { Ago, Mark } from "./layout.tsx";

/** An error code with its cause. Log entries from older versions may lack both. */
export function describeError({ error, cause }: Attempt): string {
  return printable(nameError(error ?? "failed", cause));
}

/** `HTTP 503`, or the error when there was no response. */
export function describeResult(attempt: Attempt): string {
  const status = attempt.status_code ?? undefined;
  return status === undefined ? describeError(attempt) : `HTTP ${printable(status)}`;
}

/** One attempt. Only the newest attempt with an error says what to do about it, so that the advice is not repeated. */
export const AttemptRow: FC<{ attempt: LoggedAttempt; now: number; timeoutMs: number; isFirstOfKind: boolean }> = ({
  attempt,
  now,
  timeoutMs,
  isFirstOfKind,
}) => {
  const { delivery, timestamp, success, duration_ms, error, cause, isRedelivery, response } = attempt;
  const kind = success ? "good" : "bad";
  const advice = success ? undefined : adviceFor(error ?? "", timeoutMs, cause);
  // At least a dot; the full width is the timeout.
  const width = Math.min(100, Math.max(0.8, (duration_ms / timeoutMs) * 100)) || 0.8;
  return (
    <li class="attempt" id={`a-${delivery}`}>
      <span class={`status ${kind}`}>
        <Mark kind={kind} />
        <span class="unseen">{success ? "delivered, " : "failed, "}</span>
        {describeResult(attempt)}
      </span>
      <span class="number">attempt {printable(attempt.attempt)}</span>
      <span class="duration">
        <svg class={`bar ${kind}`} viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">
          <rect width={String(width)} height="8" />
        </svg>
        <span>{formatDuration(duration_ms)}</span>
      </span>
      <span class="when">
        <Ago at={Date.parse(timestamp)} now={now} />
      </span>
      {advice !== undefined && (
        <p class="what">
          {isFirstOfKind ? <b>{advice.what}.</b> : `${advice.what}.`} {isFirstOfKind && advice.todo}
        </p>
      )}
      <p class="trace">
        <Copyable what="delivery ID" text={String(delivery)}>
          <span>
            delivery <code>{printable(delivery)}</code>
          </span>
        </Copyable>
        {isRedelivery && <span class="chip">after a redelivery</span>}
      </p>
      {isKept(response) && <Response response={response} delivery={String(delivery)} />}
    </li>
  );
};

/** Whether a log entry's response has the shape that this version writes. */
function isKept(response: KeptResponse | undefined): response is KeptResponse {
  return typeof response?.status_line === "string" && typeof response.body === "string";
}

/** The response as text, whatever the receiver sent. */
const Response: FC<{ response: KeptResponse; delivery: string }> = ({ response, delivery }) => {
  const { status_line, headers, body, is_truncated, omitted } = response;
  const head = Object.entries(headers ?? {}).map(([name, value]) => printable(`${name}: ${value}`));
  const text = [printable(status_line), ...head, "", printableLines(body)].join("\n").trimEnd();
  return (
    <details class="response" id={`response-${delivery}`}>
      <summary>Response</summary>
      <CodeBlock id={`t-${delivery}`} what="response" text={text} />
      <p>
        {is_truncated && "Truncated: only the beginning of the body is kept. "}
        {omitted && `The body was ${omitted}: not shown. `}
        {body === "" && !is_truncated && !omitted && "The body was empty. "}
        Not all headers are kept; secrets and signatures in it are masked.
      </p>
    </details>
  );
};
