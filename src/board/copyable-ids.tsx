/** @jsxImportSource hono/jsx */
/**
 * The ids of an event and of its job, to copy and to follow.
 */
import type { FC } from "hono/jsx";
import { printable } from "../runtime/printable.ts";
import { Copyable } from "./copy-button.tsx";
import { jobPath, type Site } from "./layout.tsx";

interface CopyableIdsProps {
  readonly site: Site;
  readonly id: string;
  /** The job's id; undefined when it is not kept. */
  readonly job: string | undefined;
}

/** An event's id and its job's, as part of a line. */
export const CopyableIds: FC<CopyableIdsProps> = ({ site, id, job }) => (
  <>
    <Copyable what="event ID" text={String(id)}>
      <span>
        event <code>{printable(id)}</code>
      </span>
    </Copyable>
    {job !== undefined && (
      <Copyable what="job ID" text={job}>
        <a href={jobPath(site, job)}>
          job {printable(job)} <span class="unseen">in Bull Board</span>
          <span aria-hidden="true">→</span>
        </a>
      </Copyable>
    )}
  </>
);
