/** @jsxImportSource hono/jsx */
/**
 * What all pages share: layout, small components, stylesheet and script.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Child, FC } from "hono/jsx";
import { formatAgo, formatExact } from "../operations/moments.ts";
import { shardOfJob } from "../queue/open-shard.ts";
import { nameShards, type Shard } from "../queue/shards.ts";
import { Search } from "./search.tsx";

/** Settings of the board that every page needs. */
export interface Site {
  /** A label such as `staging`; hidden when empty. */
  readonly environment: string;
  /** Nothing can be changed. */
  readonly isReadonly: boolean;
  /** Path of Bull Board, without a trailing slash. */
  readonly bullBoard: string;
  /** All, also those that are away. */
  readonly shards: readonly [Shard, ...Shard[]];
  /** Those of them that are away: their events are missing on the page. */
  readonly away?: readonly Shard[] | undefined;
  /** An attempt's deadline, ms. */
  readonly timeoutMs: number;
  /** How many attempts each user's log keeps, and for how long at most, ms. */
  readonly logSize: number;
  readonly logAgeMs: number;
  /** How many finished events the queue keeps. */
  readonly keepCompleted: number;
  readonly keepFailed: number;
  /** How many failed events the queue keeps; undefined where that is not known. */
  readonly failed?: number | undefined;
  /** Whether any endpoint is registered; undefined where that is not known. */
  readonly hasEndpoints?: boolean | undefined;
  /** The type of test events. */
  readonly testEvent: string;
}

const read = (name: string) => readFileSync(join(import.meta.dir, name), "utf8");
const css = [
  "page.css",
  "parts.css",
  "user.css",
  "user-parts.css",
  "test-form.css",
  "home.css",
  "held.css",
  "endpoints.css",
  "shards.css",
  "failed.css",
]
  .map(read)
  .join("\n");
const script = read("live.js");
const version = (text: string) => Bun.hash(text).toString(36);

/** Static files by path. Pages link to them with a hash of the content, so a new version is never served from a cache. */
export const ASSETS: Readonly<Record<string, { readonly type: string; readonly text: string }>> = {
  "/assets/page.css": { type: "text/css; charset=utf-8", text: css },
  "/assets/bull-board.css": { type: "text/css; charset=utf-8", text: read("bull-board.css") },
  "/assets/live.js": { type: "text/javascript; charset=utf-8", text: script },
  "/assets/icon.svg": {
    type: "image/svg+xml",
    text: '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="8" fill="#4f5bd5"/><path d="M9 24V8h14M9 16h10" fill="none" stroke="#fff" stroke-width="3.5" stroke-linecap="round" stroke-linejoin="round"/></svg>',
  },
};
const STYLE_URL = `/assets/page.css?v=${version(css)}`;
const SCRIPT_URL = `/assets/live.js?v=${version(script)}`;

/** Path of a user's page. User ids `.` and `..` go into the query, since browsers resolve them in a path. */
export function userPath(userId: string): string {
  const encoded = encodeURIComponent(userId);
  return /^\.{1,2}$/.test(userId) ? `/users?id=${encoded}` : `/users/${encoded}`;
}

/** Path of a shard's queue in Bull Board. */
export function queuePath({ bullBoard }: Site, { queue }: Pick<Shard, "queue">): string {
  return `${bullBoard}/queue/${encodeURIComponent(queue)}`;
}

/** Path of a job in Bull Board, by its name. */
export function jobPath(site: Site, job: string): string {
  const { shard, id } = shardOfJob(site.shards, job) ?? { shard: site.shards[0], id: job };
  return `${queuePath(site, shard)}/${encodeURIComponent(id)}`;
}

/** Path of the page that shows an event's payload; undefined for ids that a path cannot hold. */
export function payloadPath(userId: string, job: string, eventId: string): string | undefined {
  if ([userId, job].some((id) => /^\.{1,2}$/.test(id))) return undefined;
  return `/users/${encodeURIComponent(userId)}/events/${encodeURIComponent(job)}?id=${encodeURIComponent(eventId)}`;
}

/** A message at the top of a page, after an action. */
export interface Notice {
  readonly kind: "good" | "bad" | "wait";
  readonly text: string;
}

export interface LayoutProps {
  readonly site: Site;
  readonly title: string;
  readonly notice?: Notice | undefined;
  /** Refresh the page automatically. */
  readonly isLive?: boolean;
  /** Text in the header's search box; undefined hides the box. */
  readonly search?: string | undefined;
  readonly children?: Child;
}

/** A whole page, including `<html>`. */
export const Layout: FC<LayoutProps> = ({ site, title, notice, isLive = false, search, children }) => (
  <html lang="en">
    <head>
      <meta charset="utf-8" />
      <meta name="viewport" content="width=device-width, initial-scale=1" />
      <meta name="color-scheme" content="light dark" />
      <title>{`${title} · Fluxhook`}</title>
      <link rel="icon" type="image/svg+xml" href="/assets/icon.svg" />
      <link rel="stylesheet" href={STYLE_URL} />
      {isLive && <script src={SCRIPT_URL} defer />}
    </head>
    <body>
      <a class="skip" href="#main">
        Skip to content
      </a>
      <header class="top">
        <div class="wide">
          <a class="brand" href="/">
            <img src="/assets/icon.svg" alt="" width="24" height="24" />
            Fluxhook
          </a>
          {site.environment !== "" && <span class="label">{site.environment}</span>}
          {site.isReadonly && <span class="label">read-only</span>}
          <nav aria-label="Main">
            <a href="/">Overview</a>
            <a href="/failed">
              Failed {site.failed !== undefined && <span class="nav-count">{site.failed.toLocaleString("en-US")}</span>}
            </a>
            {site.hasEndpoints && <a href="/endpoints">Endpoints</a>}
            <a href={site.bullBoard}>Queue</a>
          </nav>
          {search !== undefined && <Search value={search} />}
        </div>
      </header>
      <main id="main" class="wide" tabindex={-1}>
        {site.away !== undefined && site.away.length > 0 && <Away shards={site.away} />}
        {notice !== undefined && (
          <p id="notice" class={`notice ${notice.kind}`} role="status">
            <Mark kind={notice.kind} />
            {notice.text}
          </p>
        )}
        {children}
      </main>
    </body>
  </html>
);

/** Which shards are away. */
const Away: FC<{ shards: readonly Shard[] }> = ({ shards }) => {
  const isOne = shards.length === 1;
  return (
    <p id="away" class="notice bad" role="status">
      <Mark kind="bad" />
      {nameShards(shards).replace("s", "S")} {isOne ? "does" : "do"} not answer: {isOne ? "its" : "their"} events are
      missing here.
    </p>
  );
};

/** The auto-refresh switch, shown by the script; without JavaScript, a reload link. */
export const LiveSwitch: FC<{ path: string }> = ({ path }) => (
  <p class="live">
    <button id="live-switch" type="button" aria-pressed="true" hidden>
      <span class="dot" />
      <span class="words">Live</span>
    </button>
    <noscript>
      <a href={path}>Reload</a>
    </noscript>
  </p>
);

const MARKS = {
  good: "M3.5 8.5 6.7 11.7 12.5 4.8",
  bad: "M4.5 4.5 11.5 11.5M11.5 4.5 4.5 11.5",
  wait: "M8 2.2a5.8 5.8 0 1 0 0 11.6a5.8 5.8 0 1 0 0-11.6M8 5v3.2l2 1.2",
} as const;

/** An icon that repeats what the color says, for people who cannot tell colors apart. */
export const Mark: FC<{ kind: keyof typeof MARKS }> = ({ kind }) => (
  <svg class={`mark ${kind}`} viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">
    <path d={MARKS[kind]} />
  </svg>
);

/** How long ago, with the exact time on hover. */
export const Ago: FC<{ at: number; now: number }> = ({ at, now }) => {
  const exact = formatExact(at);
  if (exact === "") return <span>time unknown</span>;
  return (
    <time datetime={new Date(at).toISOString()} title={exact}>
      {formatAgo(now - at)}
    </time>
  );
};

/** An error page: a title and an explanation. */
interface RefusalProps {
  readonly site: Site;
  readonly title: string;
  readonly text: string;
  /** Where it leads, besides the overview. */
  readonly back?: { readonly href: string; readonly text: string } | undefined;
}

export const Refusal: FC<RefusalProps> = ({ site, title, text, back }) => (
  <Layout site={site} title={title} search="">
    <section class="empty">
      <h1>{title}</h1>
      <p>{text}</p>
      {back !== undefined && (
        <p>
          <a href={back.href}>{back.text}</a>
        </p>
      )}
      <p>
        <a href="/">Overview</a>
      </p>
    </section>
  </Layout>
);
