/** @jsxImportSource hono/jsx */
/**
 * Each shard's part of what the overview shows.
 */
import type { FC } from "hono/jsx";
import type { ShardSummary } from "../operations/summary.ts";
import { shardName } from "../queue/shards.ts";
import { queuePath, type Site } from "./layout.tsx";

const COLUMNS = ["waiting", "active", "delayed", "failed"] as const;

/** A row for each shard, with links to its queue in Bull Board. */
export const ShardTable: FC<{ site: Site; shards: readonly ShardSummary[] }> = ({ site, shards }) => (
  <section class="panel shards" id="shards">
    <h2>Shards</h2>
    <table>
      <thead>
        <tr>
          {["Shard", ...COLUMNS.map((state) => `${state[0]?.toUpperCase()}${state.slice(1)}`), "Workers"].map(
            (title) => (
              <th scope="col">{title}</th>
            ),
          )}
        </tr>
      </thead>
      <tbody>
        {shards.map((shard) => (
          <tr id={`shard-${shardName(shard)}`}>
            <th scope="row">
              <a href={queuePath(site, shard)}>{shardName(shard)}</a>
            </th>
            {COLUMNS.map((state) => (
              <td class="number">
                <a href={`${queuePath(site, shard)}?status=${state}`}>{shard.counts[state].toLocaleString("en-US")}</a>
              </td>
            ))}
            <td class="number">{shard.workers ?? "unknown"}</td>
          </tr>
        ))}
      </tbody>
    </table>
  </section>
);
