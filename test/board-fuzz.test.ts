/**
 * A board with real data under 2,000 requests, half of them right but for one thing. Each run has a seed, shown when it fails:
 * BOARD_FUZZ_SEED repeats it.
 */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { appRoutes } from "@bull-board/api/dist/routes.js";
import { Queue } from "bullmq";
import { Redis } from "ioredis";
import { type RawAnswer, startBoardProcess } from "./support/board.ts";
import { type Chance, createChance } from "./support/chance.ts";
import { testValkeyUrl } from "./support/valkey.ts";

setDefaultTimeout(120_000);

const REQUESTS = 2_000;
const AT_ONCE = 8;
const HANG_MS = 1_000;
const PASSWORD = "right horse";
const SECRET = "whsec_c2VjcmV0LW9mLXRoZS1mdXp6";
const seed = Number(process.env.BOARD_FUZZ_SEED ?? Math.floor(Math.random() * 2 ** 31));

const name = `fuzz-${crypto.randomUUID()}`;
const user = `usr_${crypto.randomUUID()}`;
const url = await testValkeyUrl();
const valkey = new Redis(url, { maxRetriesPerRequest: null });
const queue = new Queue(name, { connection: valkey });
const bystanders = await queue.addBulk(Array.from({ length: 20 }, () => healthy(crypto.randomUUID())));
const jobs = await queue.addBulk(Array.from({ length: 40 }, (_, n) => healthy(String(n))));
await fail(jobs.slice(0, 15).map((job) => job.id as string));
await valkey.zadd(
  `webhooks:log:${user}`,
  ...jobs.slice(0, 10).flatMap(({ id }, n) => [Date.now() - n, attempt(id as string)]),
);
const board = await startBoardProcess({
  ...{ VALKEY_URL: url, WEBHOOK_QUEUE: name, BOARD_PASSWORD: PASSWORD, BOARD_TRUST_PROXY: "127.0.0.1" },
});

afterAll(async () => {
  await board.stop();
  await queue.obliterate({ force: true });
  await queue.close();
  await valkey.del(`webhooks:log:${user}`);
  valkey.disconnect();
});

function healthy(id: string) {
  const endpoint = { url: `https://u:p@a.example/?token=${SECRET}`, secret: SECRET };
  const delay = id.endsWith("3") ? 600_000 : 0;
  return { name: "file.created", data: { userId: user, endpoint, data: { id } }, opts: { jobId: `j-${id}`, delay } };
}

/** As a worker leaves what it gives up. */
async function fail(ids: string[]): Promise<void> {
  for (const id of ids) {
    await Promise.all([valkey.lrem(queue.toKey("wait"), 0, id), valkey.zrem(queue.toKey("delayed"), id)]);
    await valkey.zadd(queue.toKey("failed"), Date.now(), id);
    await valkey.hset(queue.toKey(id), { failedReason: `no ${SECRET} \u202e`, finishedOn: Date.now(), atm: 8 });
  }
}

function attempt(job: string): string {
  const result = { status_code: 503, duration_ms: 12, success: false, error: "http_503" };
  const names = {
    id: crypto.randomUUID(),
    delivery: crypto.randomUUID(),
    endpoint: "https://a.example/",
    event: "file.created",
  };
  return JSON.stringify({ ...names, attempt: 1, timestamp: new Date().toISOString(), ...result, job });
}

/** A request in its parts. */
interface Draft {
  method: string;
  path: string;
  query: string;
  version: string;
  headers: [string, string][];
  body: string;
}

const FORM = "application/x-www-form-urlencoded";
const BOUNDARY = "multipart/form-data; boundary=x";

/** A request as the board's own pages send it, from an address of its own: else the wait of one would be that of all. */
function draftRight(chance: Chance): Draft {
  const address = `203.0.${Math.floor(chance.between(0, 256))}.${Math.floor(chance.between(0, 256))}`;
  const headers: [string, string][] = [
    ["Host", "localhost"],
    ["Authorization", `Basic ${btoa(`admin:${PASSWORD}`)}`],
    ["X-Forwarded-For", address],
    ["X-Forwarded-User", "ada"],
    ["Accept", chance.pick(["text/html", "application/json", "*/*"])],
  ];
  const draft: Draft = { method: "GET", path: "/", query: "", version: "HTTP/1.1", headers, body: "" };
  const jobId = `j-${Math.floor(chance.between(0, 42))}`;
  const kind = chance.pick(["page", "page", "action", "bull", "bull", "bull"]);
  if (kind === "page") {
    draft.path = chance.pick([
      "/",
      "/users",
      `/users/${user}`,
      `/users/${user}/attempts`,
      "/metrics",
      "/healthz",
      "/readyz",
      "/board",
      "/board/static/favicon.ico",
      "/assets/page.css",
    ]);
    if (draft.path === "/users") draft.query = `id=${user}`;
  } else if (kind === "action") {
    Object.assign(draft, { method: "POST", path: chance.pick(["/actions/redeliver", "/actions/test"]) });
    const isForm = chance.between(0, 1) < 0.8;
    draft.body = isForm
      ? `user=${user}&job=${jobId}`
      : `--x\r\nContent-Disposition: form-data; name="user"\r\n\r\n${user}\r\n--x\r\nContent-Disposition: form-data; name="job"\r\n\r\n${jobId}\r\n--x--\r\n`;
    headers.push(["Content-Type", isForm ? FORM : BOUNDARY], ["Origin", "http://localhost"]);
  } else {
    const { method, route } = chance.pick(appRoutes.api);
    draft.method = String(method).toUpperCase();
    draft.path = `/board${String(route)}`
      .replace(":queueName", name)
      .replace(":jobId", jobId)
      .replace(":queueStatus", chance.pick(["failed", "completed"]))
      .replace(":schedulerId", "x");
    if (draft.path === "/board/api/queues")
      draft.query = `activeQueue=${name}&status=${chance.pick(["latest", "failed", "waiting"])}&page=1&jobsPerPage=10`;
    if (draft.method !== "GET") {
      draft.body = "{}";
      headers.push(["Content-Type", "application/json"], ["Sec-Fetch-Site", "same-origin"]);
    }
  }
  return draft;
}

const ODD = [
  ...[
    "",
    "%",
    "%00",
    "%zz",
    "%ff%fe",
    "%u0041",
    "%2e%2e%2f",
    "..",
    "../..",
    "//",
    "\\",
    "~",
    "*",
    "'",
    '"',
    "<script>",
    "$(x)",
    "{{7*7}}",
  ],
  ...[
    "__proto__",
    "constructor",
    "hasOwnProperty",
    "toString",
    "null",
    "undefined",
    "NaN",
    "-1",
    "0",
    "1e999",
    "9".repeat(40),
    "true",
  ],
  ...[
    "a".repeat(129),
    "a".repeat(3_000),
    "%e2%80%ae",
    "%c2%9b31m",
    "%0d%0aSet-Cookie:%20x=1",
    "%ed%a0%80",
    "é",
    "\u0080",
    "[]",
    "a[]=1",
    ";",
    "#",
    "?",
  ],
];
const HOSTS = [
  "",
  "localhost, localhost",
  "[::1",
  "[::1]",
  "127.0.0.1:3000",
  "a b",
  "evil.example",
  "localhost:99999",
  "localhost:",
  ":80",
  "%41",
  "loc\xe9",
  "@",
  "/",
  "a".repeat(5_000),
];
const METHODS = [
  "GET",
  "HEAD",
  "POST",
  "PUT",
  "PATCH",
  "DELETE",
  "OPTIONS",
  "TRACE",
  "CONNECT",
  "PROPFIND",
  "get",
  "FOO",
  "",
  "G E T",
  "A".repeat(100),
];
const AUTHORIZATIONS = [
  "",
  "Basic",
  "Basic !",
  "Basic Og==",
  "Basic YWRtaW4=",
  "Bearer x",
  "Digest username=x",
  `Basic ${"a".repeat(5_000)}`,
  "Basic /////w==",
  "basic  YWRtaW46",
];
const ORIGINS = [
  "null",
  "",
  "http://evil.example",
  "https://localhost",
  "http://localhost.evil",
  "http://localhost:1",
  "%",
  "http://[",
];
const TYPES = [
  "",
  "text/plain",
  "text/html",
  FORM,
  BOUNDARY,
  "multipart/form-data",
  "multipart/form-data; boundary=",
  `multipart/form-data; boundary=${"x".repeat(300)}`,
  "application/json",
  "application/json; charset=utf-16",
  "\x80",
  ";;",
];
const BODIES = [
  "",
  "{",
  "[]",
  "null",
  "1",
  '"x"',
  '{"__proto__":1}',
  "[".repeat(50_000),
  "user=&job=",
  "user=a&user=b&job=c&job=d",
  "%=%&%zz",
  "&".repeat(60_000),
  "\x00\xff\xfe",
  "--x\r\n\r\n",
  "--x--",
  '--x\r\nContent-Disposition: form-data; name="job"; filename="f"\r\n\r\nx\r\n--x--\r\n',
  "x".repeat(70_000),
];
const NAMES = [
  "Cookie",
  "X-Forwarded-For",
  "X-Forwarded-User",
  "X-Forwarded-Host",
  "Accept",
  "Accept-Encoding",
  "Content-Encoding",
  "Expect",
  "Upgrade",
  "Connection",
  "Range",
  "If-None-Match",
  "If-Modified-Since",
  "Transfer-Encoding",
  "X-HTTP-Method-Override",
  "Sec-Fetch-Site",
  "Te",
  "x y",
  "",
  "traceparent",
];
const VALUES = [
  "",
  "\t",
  "\x01",
  "\x7f",
  "\x85\x9b",
  "\xff",
  ",".repeat(2_000),
  "=; ".repeat(500),
  "100-continue",
  "websocket",
  "upgrade",
  "bytes=0-0,-1",
  "bytes=9-1",
  "gzip",
  "*/*;q=x",
  "text/html;".repeat(300),
  "chunked",
  "cross-site",
  "unknown, [::1]:1, 1.2.3.4:5",
  "x".repeat(9_000),
];

/** One thing that is wrong with a request, by what it changes. */
const MUTATIONS: Record<string, (draft: Draft, chance: Chance) => void> = {
  method: (draft, chance) => {
    draft.method = chance.pick(METHODS);
  },
  path: (draft, chance) => {
    const parts = draft.path.split("/");
    const at = Math.floor(chance.between(1, parts.length + 1));
    parts.splice(at, Math.floor(chance.between(0, 2)), chance.pick(ODD));
    draft.path = parts.join("/");
  },
  query: (draft, chance) => {
    const key = chance.pick([
      "id",
      "notice",
      "activeQueue",
      "status",
      "page",
      "jobsPerPage",
      "queueName",
      "start",
      "end",
      "depth",
      "maxChildren",
      ...ODD,
    ]);
    draft.query = chance.pick([
      `${draft.query}&${key}=${chance.pick(ODD)}`,
      `${key}=${chance.pick(ODD)}`,
      chance.pick(ODD),
    ]);
  },
  header: (draft, chance) => {
    draft.headers.push([chance.pick(NAMES), chance.pick(VALUES)]);
  },
  "header twice": (draft, chance) => {
    draft.headers.push(chance.pick(draft.headers));
  },
  "header missing": (draft, chance) => {
    draft.headers.splice(Math.floor(chance.between(0, draft.headers.length)), 1);
  },
  host: (draft, chance) => setHeader(draft, "Host", chance.pick(HOSTS)),
  login: (draft, chance) => setHeader(draft, "Authorization", chance.pick(AUTHORIZATIONS)),
  origin: (draft, chance) => setHeader(draft, "Origin", chance.pick(ORIGINS)),
  type: (draft, chance) => setHeader(draft, "Content-Type", chance.pick(TYPES)),
  body: (draft, chance) => {
    draft.body = chance.pick([chance.pick(BODIES), draft.body.slice(0, chance.between(0, draft.body.length))]);
  },
  byte: (draft, chance) => {
    const at = Math.floor(chance.between(0, draft.body.length));
    draft.body = `${draft.body.slice(0, at)}${chance.pick(["\x00", "\xff", "%", '"', "\r"])}${draft.body.slice(at + 1)}`;
  },
  version: (draft, chance) => {
    draft.version = chance.pick(["HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/1.1 ", "http/1.1", "", "X"]);
  },
};

function setHeader(draft: Draft, header: string, value: string): void {
  draft.headers = [...draft.headers.filter(([known]) => known !== header), [header, value]];
}

function write({ method, path, query, version, headers, body }: Draft): string {
  const target = query === "" ? path : `${path}?${query}`;
  const length = body === "" && method === "GET" ? [] : [["Content-Length", String(Buffer.byteLength(body, "latin1"))]];
  const lines = [...headers, ...length, ["Connection", "close"]].map(([header, value]) => `${header}: ${value}`);
  return [`${method} ${target} ${version}`, ...lines, "", body].join("\r\n");
}

interface Sent {
  readonly mutations: readonly string[];
  readonly bytes: string;
}

function drawRequests(chance: Chance): Sent[] {
  return Array.from({ length: REQUESTS }, (_, n) => {
    const draft = draftRight(chance);
    const count = n % 2 === 0 ? 1 : Math.floor(chance.between(0, 6));
    const mutations = Array.from({ length: count }, () => chance.pick(Object.keys(MUTATIONS)));
    for (const mutation of mutations) MUTATIONS[mutation]?.(draft, chance);
    return { mutations, bytes: write(draft) };
  });
}

/** What is wrong with an answer; undefined when nothing is. */
function judge({ status, body, tookMs }: RawAnswer): string | undefined {
  // 505 is the parser's for a request line that it cannot read; it comes before any of ours.
  if (status >= 500 && status !== 505) return `status ${status}: ${body.slice(0, 200)}`;
  if (/\n\s+at .+:\d+|node_modules|\.tsx?:\d/.test(body)) return `a stack trace: ${body.slice(0, 200)}`;
  if (body.includes(SECRET)) return "a secret";
  return tookMs > HANG_MS ? `${Math.round(tookMs)} ms` : undefined;
}

test(`two thousand requests do the board no harm, seed ${seed}`, async () => {
  const statuses = new Map<number, number>();
  const rest = drawRequests(createChance(seed))[Symbol.iterator]();
  const bad: object[] = [];
  const lane = async () => {
    for (const { mutations, bytes } of rest) {
      let answer = await board.send(bytes);
      let fault = judge(answer);
      if (answer.tookMs > HANG_MS) {
        answer = await board.send(bytes); // the machine may have been busy
        fault = judge(answer);
      }
      statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1);
      if (fault !== undefined) bad.push({ fault, mutations, bytes: bytes.slice(0, 500) });
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, lane));

  expect({ seed, bad: bad.slice(0, 5), count: bad.length }).toEqual({ seed, bad: [], count: 0 });
  expect(statuses.get(200), String(seed)).toBeGreaterThan(REQUESTS / 5); // it did more than refuse
  const right = [
    "GET / HTTP/1.1",
    "Host: localhost",
    `Authorization: Basic ${btoa(`admin:${PASSWORD}`)}`,
    "Connection: close",
  ];
  const { status, body } = await board.send([...right, "Accept: text/html", "", ""].join("\r\n"));
  expect([seed, status, body.includes("Overview")]).toEqual([seed, 200, true]);
  expect(board.errors(), String(seed)).toBe("");
  expect(board.output(), String(seed)).not.toMatch(/board\.failed|"level":"(error|fatal)"|\n\s+at |node_modules/);
  const kept = await Promise.all(bystanders.map((job) => job.getState()));
  expect([seed, kept.filter((state) => state !== "waiting" && state !== "delayed")]).toEqual([seed, []]);
});
