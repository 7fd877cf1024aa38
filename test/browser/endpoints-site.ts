/** A Fluxhook whose users have registered endpoints in every state, for a browser to look at. */
import { createRegistry, type Registry } from "../../src/registry/registry.ts";
import { createLogger } from "../../src/runtime/logger.ts";
import { connectValkey } from "../../src/valkey/connection.ts";
import { eventually } from "../support/stack.ts";
import { type Site, startSite } from "./site.ts";

export const SHOP = "usr_shop";
const KEY = Buffer.alloc(32, 7).toString("base64");

export interface EndpointsSite extends Site {
  readonly registry: Registry;
  /** Enqueue an event for a registered endpoint, or for all of the user's that want it. */
  post(userId: string, id: string | undefined, event?: string): Promise<string>;
}

/** Start it, with nothing registered. */
export async function startEndpointsSite(env: Record<string, string> = {}): Promise<EndpointsSite> {
  const site = await startSite({
    ...{ WEBHOOK_SECRET_KEYS: KEY, WEBHOOK_REGISTRY: "1", WEBHOOK_MISSED_MAX: "10", WEBHOOK_RETRY_DELAYS: "50ms" },
    ...env,
  });
  const valkey = connectValkey(site.valkey.url, "test:endpoints", createLogger("silent").logger);
  return {
    ...site,
    registry: createRegistry(valkey, { secretKeys: [KEY] }),
    async post(userId, id, event = "file.created") {
      const endpoint = id === undefined ? {} : { endpoint: { id } };
      return (await site.queue.add(event, { userId, ...endpoint, data: { path: "/a.txt" } }, { attempts: 2 }))
        .id as string;
    },
    async stop() {
      valkey.disconnect();
      await site.stop();
    },
  };
}

/**
 * Register endpoints of {@link SHOP}: `main` works, `search` fails, `archive` is disabled and missed 25 events, of which 10 are kept, `audit` is
 * paused; and one of another user.
 */
export async function fillEndpoints({ registry, receiver, post, queue }: EndpointsSite): Promise<void> {
  receiver.answer(({ path }) => ({ status: path.startsWith("/down") ? 503 : 204 }));
  await registry.create(SHOP, {
    ...{ id: "main", url: `${receiver.url("/hooks")}?token=hush`, description: "The shop's own server" },
    ...{ rateLimit: { perSecond: 50, burst: 10 }, metadata: { plan: "business", region: "eu-west-1" } },
    headers: { Authorization: "Bearer 0123456789abcdef9f2c", "X-Short": "hush" },
  });
  await registry.rotate(SHOP, "main");
  await registry.create(SHOP, { id: "search", url: receiver.url("/down/search"), events: ["file.*", "share.linked"] });
  await registry.create(SHOP, { id: "archive", url: receiver.url("/archive"), events: ["file.created"] });
  await registry.create(SHOP, { id: "audit", url: receiver.url("/audit"), events: ["org.permissionChanged"] });
  await registry.create("usr_other", { url: receiver.url("/a/rather/long/path/of/an/endpoint/that/has/to/wrap") });
  await registry.disable(SHOP, "archive");
  await registry.pause(SHOP, "audit");
  await post(SHOP, "main");
  await post(SHOP, undefined, "share.linked");
  await post(SHOP, "search", "file.deleted");
  await post(SHOP, "audit", "org.permissionChanged");
  for (let count = 0; count < 25; count++) await post(SHOP, "archive");
  await eventually(
    () => queue.getJobCounts("waiting", "active", "delayed", "prioritized"),
    ({ waiting, active, prioritized, delayed }) =>
      waiting === 0 && active === 0 && prioritized === 0 && (delayed ?? 0) <= 1,
    30_000,
  );
}
