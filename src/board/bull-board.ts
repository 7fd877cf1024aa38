/**
 * Bull Board, and what operators may see and do in it. The only file that imports @bull-board.
 */
import { createBullBoard } from "@bull-board/api";
import { BullMQAdapter } from "@bull-board/api/bullMQAdapter";
import { HonoAdapter } from "@bull-board/hono";
import { type Context, Hono } from "hono";
import { serveStatic } from "hono/bun";
import { contextStorage, getContext } from "hono/context-storage";
import { jobData } from "../delivery/contract.ts";
import { endpointIdOf } from "../operations/job-filter.ts";
import { maskSecrets } from "../operations/mask.ts";
import type { OpenShard, OpenShards } from "../queue/open-shard.ts";
import { nameShards } from "../queue/shards.ts";
import type { Logger } from "../runtime/logger.ts";
import { readFacts } from "../valkey/connection.ts";
import { userPath } from "./layout.tsx";
import type { BoardLog } from "./log.ts";

type BoardOptions = NonNullable<Parameters<typeof createBullBoard>[0]["options"]>;
type Hooks = NonNullable<BoardOptions["handlerHooks"]>;
type HookContext = Parameters<NonNullable<Hooks["after"]>>[0];

const ICON = "/assets/icon.svg";
const STATS = "get /api/redis/stats";
const CLEAN = "put /api/queues/:queueName/clean/:queueStatus";

/**
 * What an operator may do: view, retry, promote, pause, resume, remove a job, clean finished jobs. An allowlist, so that an
 * upgrade of Bull Board cannot enable anything unnoticed. Adding, editing, rescheduling, schedulers, limits, drain and
 * obliterate are off: events belong to the backend, and an edit would save the masked data shown here.
 */
const ALLOWED = new Set([
  STATS,
  "get /api/queues",
  "get /api/job-schedulers",
  "get /api/queues/:queueName/metrics",
  "get /api/queues/:queueName/default-job-options",
  "get /api/queues/:queueName/workers",
  "get /api/queues/:queueName/rate-limit",
  "get /api/queues/:queueName/job-data-schema",
  "get /api/queues/:queueName/:jobId",
  "get /api/queues/:queueName/:jobId/logs",
  "get /api/queues/:queueName/:jobId/flow",
  "put /api/queues/pause",
  "put /api/queues/resume",
  "put /api/queues/:queueName/pause",
  "put /api/queues/:queueName/resume",
  "put /api/queues/:queueName/promote",
  "put /api/queues/:queueName/retry/:queueStatus",
  CLEAN,
  "put /api/queues/:queueName/:jobId/retry",
  "put /api/queues/:queueName/:jobId/promote",
  "put /api/queues/:queueName/:jobId/clean",
]);

/** Our pages' accent, and text that can be read: Bull Board's own gray and red are too pale for WCAG AA. */
const THEME = {
  light: { ...accent("#3a46b8"), "muted-foreground": "#444c56", destructive: "#b3261e", "status-failed": "#c62f26" },
  dark: { ...accent("#9aa4ff"), "muted-foreground": "#b4bdca", destructive: "#ff9389", "status-failed": "#ff9389" },
};

const MAX_JOBS = 100; // per page, with their data: up to about 25 MB at the largest body size
const FINISHED = new Set(["completed", "failed"]); // all other states are still to be delivered

export interface BullBoardOptions {
  readonly shards: OpenShards;
  /** Where the routes will be mounted, without a trailing slash. */
  readonly basePath: string;
  /** A label such as `staging`; hidden when empty. */
  readonly environment: string;
  /** Refuse every change. */
  readonly isReadonly: boolean;
  readonly logger: Pick<Logger, "error">;
  readonly boardLog: Pick<BoardLog, "action" | "refused">;
}

/** The page and its API, to be mounted at `basePath`. Secrets are masked in every response: see {@link maskSecrets}. */
export function createBullBoardRoutes(options: BullBoardOptions): Hono {
  const { shards, basePath, environment, isReadonly, logger, boardLog } = options;
  const [{ valkey }] = shards;
  const names = new Set(shards.map(({ queue }) => queue));
  const adapter = new HonoAdapter(serveStatic);
  const handlerHooks: Hooks = {
    before(context) {
      const refusal = refuse(context, isReadonly);
      if (refusal === undefined) return { allow: true };
      if (refusal.status === 403) {
        const reason = isReadonly ? "readonly" : "not_allowed";
        boardLog.refused(getContext(), reason, { action: context.route, ...context.request.params });
      }
      return { allow: false, ...refusal };
    },
    async after(context, { status, body }) {
      if (context.method !== "get") {
        const { params } = context.request;
        boardLog.action(getContext(), { action: context.route, ...params, status: status ?? 200 });
      }
      if (nameOf(context) === STATS)
        return { status, body: { ...(body as object), version: (await readFacts(valkey)).server } };
      return { status, body: maskSecrets(body, { about: await readJobData(context), names }) as typeof body };
    },
  };
  createBullBoard({
    queues: shards.map((shard) => createQueueAdapter(shard, isReadonly)),
    serverAdapter: adapter,
    options: {
      handlerHooks,
      uiConfig: {
        boardTitle: "Fluxhook",
        hideDocsLink: true,
        boardLogo: { path: ICON, width: 28, height: 28 },
        favIcon: { default: ICON, alternative: ICON },
        miscLinks: [{ text: "Users and overview", url: "/" }],
        theme: THEME,
        ...(environment === "" ? {} : { environment: { label: environment, color: "#b45309", textColor: "#ffffff" } }),
      },
    },
  });
  // Bull Board's own handler would send the error's message, and a SyntaxError's message quotes the job's data.
  adapter.setErrorHandler((error) => {
    if (error instanceof URIError) return { status: 400, body: { error: { key: "ERRORS.INVALID_QUERY_PARAM" } } };
    if (isRefusal(error)) return { status: 409, body: { error: { key: "ERRORS.FORBIDDEN" }, message: error.message } };
    logger.error({ error: error.name }, "board.failed");
    return { status: 500, body: { error: { key: "ERRORS.INTERNAL_SERVER_ERROR" } } };
  });
  adapter.setBasePath(basePath);

  const app = new Hono();
  app.use(contextStorage()); // Bull Board's hooks get no Hono context, and need it to log who sent the request
  app.use(async (c, next) => {
    await next();
    if (!c.res.headers.get("content-type")?.startsWith("text/html")) return;
    c.res = new Response(adapt(await c.res.text()), c.res);
  });
  const plugin = adapter.registerPlugin();
  plugin.onError((error) => {
    throw error; // to the app's own handler: the plugin's would print the stack
  });
  return app.route("/", plugin);
}

function accent(color: string) {
  const selected = `color-mix(in srgb, ${color} 14%, transparent)`;
  return {
    ...{ primary: color, ring: color, "state-selected": selected, "state-selected-foreground": color },
    ...{ "sidebar-primary": color, "sidebar-ring": color },
    ...{ "sidebar-state-selected": selected, "sidebar-state-selected-foreground": color },
  };
}

function nameOf({ method, route }: HookContext): string {
  return `${method} ${route}`;
}

interface Refusal {
  readonly status: 400 | 403;
  readonly message: string;
}

/** Why a request is refused; undefined when it is allowed. */
function refuse(context: HookContext, isReadonly: boolean): Refusal | undefined {
  const name = nameOf(context);
  const { params, query } = context.request;
  if (isReadonly && context.method !== "get") {
    return { status: 403, message: "This board is read-only: BOARD_READONLY is set." };
  }
  if (!ALLOWED.has(name)) {
    return {
      status: 403,
      message: "Adding and editing jobs is disabled in Fluxhook's board.",
    };
  }
  if (name === CLEAN && !FINISHED.has(params.queueStatus)) {
    return {
      status: 403,
      message: "Only completed and failed jobs can be cleaned: all others are still to be delivered.",
    };
  }
  if (Number(query.jobsPerPage) > MAX_JOBS)
    return { status: 400, message: `jobsPerPage: expected at most ${MAX_JOBS}` };
  return undefined;
}

/** The data of the requested job, to mask its secrets where the response has no data of its own, as in the job's logs. */
async function readJobData({ method, request }: HookContext): Promise<unknown> {
  const { queues, params } = request;
  if (method !== "get" || params.jobId === undefined) return undefined;
  const queue = queues.get(params.queueName);
  const isThere = await queue?.isVisible(request); // otherwise its Valkey would not answer
  return isThere ? (await queue?.getJob(params.jobId))?.toJSON().data : undefined;
}

/** BullMQ's errors have a numeric code when it refuses something, such as promoting a job that is not delayed. */
function isRefusal(error: Error): boolean {
  return typeof (error as { code?: unknown }).code === "number";
}

/** Cards are titled with the event, its user and its host or registered endpoint, and lead to the user's page. */
function createQueueAdapter(shard: OpenShard, isReadonly: boolean): BullMQAdapter {
  const { client, label } = shard;
  const adapter = new BullMQAdapter(client, {
    description:
      label === "" ? "Webhook events, one per job" : `Webhook events, one per job, in ${nameShards([shard])}`,
    readOnlyMode: isReadonly,
    externalJobUrl: ({ data }) => {
      const { userId } = readSubject(data);
      const link = userId === undefined ? undefined : { displayText: "Attempts", href: userPath(userId) };
      return link as NonNullable<typeof link>; // without a user there is no link, which the type does not know
    },
  });
  // One that is away is not shown, since its queue would keep the others waiting.
  if (label !== "") adapter.setVisibilityGuard(() => (getContext() as Context).get("shards").includes(shard));
  adapter.setFormatter("name", ({ name, data }: { name: string; data: unknown }) => {
    const { userId, where } = readSubject(data);
    return [name, userId, where].filter((part) => part !== undefined && part !== "").join(" · ");
  });
  return adapter;
}

const MAX_ID = 64; // characters of a registered endpoint's id

/** Whose event a job is, and where it goes, as far as its data is valid. */
function readSubject(data: unknown): { userId: string | undefined; where: string | undefined } {
  const { userId, endpoint } = (data ?? {}) as { userId?: unknown; endpoint?: { url?: unknown } | null };
  const id = endpointIdOf({ name: "", data: data as Record<string, unknown> });
  const host = URL.parse(String(endpoint?.url))?.host;
  return { userId: jobData.shape.userId.safeParse(userId).data, where: id?.slice(0, MAX_ID) ?? host };
}

const NO_SCRIPT = `<noscript>
<style>#root { display: none } body.preload { opacity: 1; visibility: visible }</style>
<p class="no-script">The queue's page needs JavaScript. <a href="/">The overview</a>, the failed events and the users' pages work without it.</p>
</noscript>`;

/** Bull Board's page loads fonts from another host: use those of our own pages instead. Without JavaScript, it is empty. */
function adapt(html: string): string {
  const own = html.replace(/<link\b[^>]*\bhref="https?:[^>]*>/g, "").replace(/<body\b[^>]*>/, `$&\n${NO_SCRIPT}`);
  return own.replace("</head>", '<link href="/assets/bull-board.css" rel="stylesheet"></head>'); // last, so that it wins
}
