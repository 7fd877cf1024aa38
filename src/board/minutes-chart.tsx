/** @jsxImportSource hono/jsx */
/**
 * A stacked bar per minute: completed at the bottom, failed on top.
 */
import type { FC } from "hono/jsx";
import type { Summary } from "../operations/summary.ts";
import type { Site } from "./layout.tsx";

const STEP = 10;
const BAR = 7;
const HEIGHT = 100;

/** Minutes for which the queue no longer keeps every job are drawn as a patterned stub: their totals are unknown. */
export const MinutesChart: FC<{ site: Site; minutes: Summary["minutes"] }> = ({ site, minutes }) => {
  const most = Math.max(1, ...minutes.map(({ completed, failed }) => completed.count + failed.count));
  const total = (of: "completed" | "failed") => minutes.reduce((sum, minute) => sum + minute[of].count, 0);
  const isPartly = minutes.some(({ completed, failed }) => completed.isLeast || failed.isLeast);
  const words = `${isPartly ? "At least " : ""}${total("completed").toLocaleString("en-US")} completed, ${total("failed").toLocaleString("en-US")} failed`;
  const heightOf = (count: number) => (count === 0 ? 0 : Math.max(2, (count / most) * HEIGHT));
  return (
    <>
      <svg
        class="chart"
        viewBox={`0 0 ${minutes.length * STEP} ${HEIGHT}`}
        preserveAspectRatio="none"
        role="img"
        aria-label={words}
      >
        {minutes.map(({ completed, failed }, index) => {
          const x = index * STEP + (STEP - BAR) / 2;
          const [up, top] = [heightOf(completed.count), heightOf(failed.count)];
          const isLeast = completed.isLeast || failed.isLeast;
          return (
            <g>
              <title>{`${minutes.length - index} min ago: ${isLeast ? "at least " : ""}${completed.count} completed, ${failed.count} failed`}</title>
              <rect class="room" x={index * STEP} width={STEP} height={HEIGHT} />
              <rect class={isLeast ? "least" : "none"} x={x} y={HEIGHT - 2} width={BAR} height={2} />
              <rect class="good" x={x} y={HEIGHT - up} width={BAR} height={up} />
              <rect class="bad" x={x} y={Math.max(0, HEIGHT - up - top)} width={BAR} height={top} />
            </g>
          );
        })}
      </svg>
      <p class="axis" aria-hidden="true">
        <span>30 min ago</span>
        <span>now</span>
      </p>
      <p class="tally">
        {words}
        {isPartly &&
          `. The queue keeps the last ${site.keepCompleted.toLocaleString("en-US")} completed and ${site.keepFailed.toLocaleString("en-US")} failed jobs; for rates, see the workers' metrics`}
        .
      </p>
    </>
  );
};
