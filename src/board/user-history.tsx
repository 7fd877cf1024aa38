/** @jsxImportSource hono/jsx */
/**
 * A user's attempts at a glance.
 */
import type { FC } from "hono/jsx";
import type { LoggedAttempt } from "../log/deliveries.ts";
import { formatExact } from "../operations/moments.ts";
import { printable } from "../runtime/printable.ts";
import { describeError, describeResult } from "./attempt-row.tsx";
import { Mark } from "./layout.tsx";

const MARKS = 30; // attempts shown as marks

/** What operators sent by hand says nothing about how the user's events fare. */
const isByHand = ({ isRedelivery, test }: LoggedAttempt): boolean => isRedelivery || test === true;

/**
 * A row of marks, oldest first, each a link to its attempt, and how many were delivered and failed. Attempts by hand are marked as
 * such and not counted.
 *
 * @param attempts  newest first
 */
export const History: FC<{ attempts: readonly LoggedAttempt[]; href: (attempt: LoggedAttempt) => string }> = ({
  attempts,
  href,
}) => {
  const counted = attempts.filter((attempt) => !isByHand(attempt));
  const delivered = counted.filter(({ success }) => success).length;
  const tests = attempts.filter(({ test }) => test === true).length;
  const others = [
    [attempts.length - counted.length - tests, "after a redelivery"],
    [tests, tests === 1 ? "test event" : "test events"],
  ].flatMap(([count, words]) => (count === 0 ? [] : [`${count} ${words}`]));
  return (
    <div class="history">
      <ol
        aria-label={attempts.length > MARKS ? `The latest ${MARKS} attempts, oldest first` : "Attempts, oldest first"}
      >
        {attempts
          .slice(0, MARKS)
          .reverse()
          .map((attempt) => (
            <li>
              <a
                class={`${attempt.success ? "good" : "bad"}${isByHand(attempt) ? " by-hand" : ""}`}
                href={href(attempt)}
                title={describe(attempt)}
              >
                <Mark kind={attempt.success ? "good" : "bad"} />
                <span class="unseen">
                  {attempt.success ? "delivered" : describeError(attempt)}
                  {isByHand(attempt) && ", sent by hand"}
                </span>
              </a>
            </li>
          ))}
      </ol>
      <p>
        {delivered} delivered, {counted.length - delivered} failed
        {others.length > 0 && `; not counted: ${others.join(", ")}`}
      </p>
    </div>
  );
};

function describe(attempt: LoggedAttempt): string {
  const { event, timestamp, isRedelivery, test } = attempt;
  const byHand = test === true ? ", test event" : isRedelivery ? ", after a redelivery" : "";
  return `${printable(event)}, ${describeResult(attempt)}, ${formatExact(Date.parse(timestamp))}${byHand}`;
}
