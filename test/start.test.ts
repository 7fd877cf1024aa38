import { afterEach, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Queue } from "bullmq";
import { EVENT_TYPES } from "../src/delivery/contract.ts";
import { startCluster } from "../src/dev/cluster.ts";
import { type LogLine, startChild } from "../src/dev/processes.ts";
import { createPaint, formatAttempt, formatPairs } from "../src/dev/report.ts";
import { startValkey } from "../src/dev/valkey.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const root = join(import.meta.dir, "..");
const patienceMs = 40_000; // a whole system starts, works and ends
const endings: (() => unknown)[] = [];

afterEach(async () => {
  for (const end of endings.splice(0).reverse()) await end();
});

/** Run the demo as a process of its own, with a directory of its own for whatever it leaves behind. */
function start(options: string[], settings: Record<string, string> = {}) {
  const directory = mkdtempSync(join(tmpdir(), "fluxhook-start-test-"));
  const ports = { WORKER_PORT: "0", BOARD_PORT: "0" };
  const child = Bun.spawn([process.execPath, join(root, "src/dev/start.ts"), ...options], {
    cwd: directory, // no .env here
    env: { PATH: process.env.PATH, TMPDIR: directory, ...ports, ...settings },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let text = "";
  let look = () => {};
  const read = async (stream: ReadableStream<Uint8Array>) => {
    const decoder = new TextDecoder();
    for await (const chunk of stream) {
      text += decoder.decode(chunk, { stream: true });
      look();
    }
  };
  const outputs = Promise.all([read(child.stdout), read(child.stderr)]);
  endings.push(async () => {
    child.kill("SIGKILL");
    await child.exited;
    rmSync(directory, { recursive: true, force: true });
  });
  return {
    child,
    leftovers: () => readdirSync(directory),
    /** The match, as soon as the output has it. */
    shows: (pattern: RegExp) =>
      new Promise<RegExpMatchArray>((resolve, reject) => {
        look = () => {
          const match = text.match(pattern);
          if (match !== null) resolve(match);
        };
        look();
        outputs.then(() => reject(new Error(`expected the output to match ${pattern}:\n${text}`)));
      }),
    /** Exit code and output, once it has ended. */
    async end() {
      await outputs;
      return { code: await child.exited, text };
    },
  };
}

const listens = (port: number) =>
  new Promise<boolean>((resolve) => {
    const socket = connect(port, "127.0.0.1", () => {
      socket.destroy();
      resolve(true);
    }).on("error", () => resolve(false));
  });

/** The ports of Valkey, worker, board and receiver. */
const portsIn = (text: string) =>
  ["Valkey", "Worker", "Board", "Receiver"].map((name) =>
    Number(text.match(new RegExp(`^  ${name} .*?:(\\d+)`, "m"))?.[1]),
  );

const rowsOf = (text: string) => text.split("\n").filter((line) => /^ {2}\S+\s+\d{3}\s+\d+\s+\d\s/.test(line));

describe("npm start", () => {
  test(
    "with --once delivers and verifies ten events, retries one, shows the log, and ends with 0",
    async () => {
      const demo = start(["--once"]);
      const { code, text } = await demo.end();
      expect(text).toContain("All ten delivered, every signature verified.");
      expect(code).toBe(0);
      const rows = rowsOf(text);
      expect(rows).toHaveLength(EVENT_TYPES.length + 1);
      for (const type of EVENT_TYPES) expect(rows.some((row) => row.startsWith(`  ${type} `))).toBe(true);
      expect(rows.every((row) => row.includes("verified"))).toBe(true);
      const retried = rows.filter((row) => row.includes("share.linked"));
      expect(retried[0]).toMatch(/ 503 .* 1 {2}verified {2,}retry in \d\.\d s$/);
      expect(retried[1]).toMatch(/ 200 .* 2 {2}verified$/);
      expect(text.match(/^ {2}\d{4}-\d\d-\d\dT[\d:.]+Z {2}\w+\.\w+ .*$/gm)).toHaveLength(10);
      expect(text).not.toContain("\x1b["); // not a terminal
      expect(demo.leftovers()).toEqual([]);
      expect(await Promise.all(portsIn(text).map(listens))).toEqual([false, false, false, false]);
    },
    patienceMs,
  );

  test(
    "with --shards starts a cluster, spreads the events of several users over it, and ends with nothing left",
    async () => {
      const demo = start(["--once", "--shards", "6"]);
      const { code, text } = await demo.end();
      expect(text).toContain("All ten delivered, every signature verified.");
      expect(text).toContain('processes the queue "webhooks", 6 shards');
      expect(text).toContain("The log of one customer, usr_demo");
      expect(code).toBe(0);
      const shards = [...text.matchAll(/^ {2}(\d) {6}\S+ +\d{3} /gm)].map(([, shard]) => Number(shard));
      expect(shards).toHaveLength(EVENT_TYPES.length + 1);
      expect([...new Set(shards)].sort()).toEqual([0, 1, 2, 3, 4, 5]);
      expect(demo.leftovers()).toEqual([]);
      const nodes = text.match(/^ {2}Valkey .*$/m)?.[0].match(/\d{5}/g) ?? [];
      expect(nodes).toHaveLength(3);
      expect(await Promise.all(nodes.map((port) => listens(Number(port))))).toEqual([false, false, false]);
    },
    patienceMs,
  );

  test(
    "uses the cluster of VALKEY_URL, and shows the lines to paste for it",
    async () => {
      const cluster = await startCluster({ replicas: 0 });
      endings.push(() => cluster.stop());
      const demo = start(["--shards=2"], { VALKEY_URL: cluster.url });
      const { input } = await demo.shows(/Ctrl-C/);
      const [, command] = /^ {2}(export \S+ \S+\n {2}npm run send.*)$/m.exec(input as string) ?? [];
      expect(command).toStartWith(`export VALKEY_URL=${cluster.url} WEBHOOK_SHARDS=2\n`);
      const local = (command as string).replace(/npm run send(?: --)?/, `"${process.execPath}" src/dev/send.ts`);
      const send = Bun.spawn(["sh", "-c", local], { cwd: root, stdout: "pipe" });
      expect(await new Response(send.stdout).text()).toMatch(
        /^Enqueued file\.created on "webhooks-\{([01])\}" as job \1\/\d+\.\n$/,
      );
      await demo.shows(/Ctrl-C[\s\S]*file\.created +200 .*verified/);
    },
    patienceMs,
  );

  test.each(["SIGINT", "SIGTERM"] as const)(
    "stays up, takes further events, and ends with 0 on %s, leaving nothing behind",
    async (signal) => {
      const demo = start([]);
      const [, command] = await demo.shows(/^ {2}((?:export \S+\n {2})?npm run send.*)$/m);
      const { text: soFar } = await Promise.race([
        demo.shows(/Ctrl-C/).then(({ input }) => ({ text: input as string })),
        demo.end(),
      ]);
      expect(await Promise.all(portsIn(soFar).map(listens))).toEqual([true, true, true, true]);
      for (const [, url] of soFar.matchAll(
        /^ {2}(?:Customer's page|Overview|Bull Board|Customer's log|Worker's metrics) +(\S+)$/gm,
      )) {
        expect((await fetch(url as string)).status).toBe(200);
      }
      // As a user would paste it, but for npm's own check and output.
      const local = (command as string).replace(/npm run send(?: --)?/, `"${process.execPath}" src/dev/send.ts`);
      const send = Bun.spawn(["sh", "-c", local], { cwd: root, stdout: "pipe" });
      expect(await new Response(send.stdout).text()).toBe('Enqueued file.created on "webhooks" as job 11.\n');
      await demo.shows(/Ctrl-C[\s\S]*file\.created +200 .*verified/);
      demo.child.kill(signal);
      demo.child.kill(signal); // as under npm, which passes on what the terminal has sent already
      const { code, text } = await demo.end();
      expect(code).toBe(0);
      expect(text).toEndWith("\nStopping.\n");
      expect(demo.leftovers()).toEqual([]);
      expect(await Promise.all(portsIn(text).map(listens))).toEqual([false, false, false, false]);
    },
    patienceMs,
  );

  test(
    "takes another port than 6379 and 8484 while they are taken, and shows the lines to paste for that",
    async () => {
      for (const port of [6379, 8484]) {
        const server = createServer();
        await new Promise<void>((resolve) => server.once("error", () => resolve()).listen(port, "127.0.0.1", resolve));
        endings.push(() => server.close());
      }
      const demo = start([]);
      const { input } = await demo.shows(/Ctrl-C/);
      const [valkey, , , receiver] = portsIn(input as string);
      expect(input).toContain(`\n  export VALKEY_URL=redis://127.0.0.1:${valkey}\n`);
      expect(input).toContain("Port 6379 is taken. Paste the first line into every terminal");
      expect(input).toContain(`\n  npm run send -- file.created http://127.0.0.1:${receiver}/webhooks\n`);
      expect(valkey).not.toBe(6379);
      expect(receiver).not.toBe(8484);
    },
    patienceMs,
  );

  test(
    "takes the ports that the README's snippets use, if they are free",
    async () => {
      const areFree = !(await listens(6379)) && !(await listens(8484));
      const demo = start([]);
      const { input } = await demo.shows(/Ctrl-C/);
      const [valkey, , , receiver] = portsIn(input as string);
      if (!areFree) return; // another test's demo, or this machine's Valkey: the test above is about that
      if (valkey !== 6379) expect(input).toContain("Port 6379 is taken"); // in the meantime
      if (receiver !== 8484) expect(input).toContain("Port 8484 is taken");
      if (valkey === 6379 && receiver === 8484) expect(input).toMatch(/\n {2}npm run send\n {2}npx fluxhook attempts/);
    },
    patienceMs,
  );

  test(
    "ends at once when it is interrupted while it starts",
    async () => {
      const demo = start([]);
      while (demo.leftovers().length === 0) await Bun.sleep(1); // Valkey is on its way up
      demo.child.kill("SIGINT");
      expect((await demo.end()).code).toBe(0);
      expect(demo.leftovers()).toEqual([]);
    },
    patienceMs,
  );

  test(
    "ends at once when it is interrupted again",
    async () => {
      const valkey = await startValkey();
      endings.push(() => valkey.stop());
      const demo = start([], { VALKEY_URL: valkey.url });
      const { input } = await demo.shows(/Ctrl-C/);
      valkey.pause(); // the worker waits for it, with a limit
      demo.child.kill("SIGINT");
      await demo.shows(/Stopping/);
      await Bun.sleep(450); // beyond what counts as one keystroke
      demo.child.kill("SIGINT");
      expect((await demo.end()).code).toBe(130);
      const [, ...ports] = portsIn(input as string);
      for (const port of ports) while (await listens(port)) await Bun.sleep(5); // killed, but perhaps not gone yet
    },
    patienceMs,
  );

  test(
    "shows what the worker complains about",
    async () => {
      const valkey = await startValkey();
      endings.push(() => valkey.stop());
      const demo = start([], { VALKEY_URL: valkey.url });
      await demo.shows(/Ctrl-C/);
      const queue = new Queue("webhooks", { connection: { url: valkey.url } });
      endings.push(() => queue.close());
      await queue.add("file.vanished", {});
      await demo.shows(/The worker says job\.rejected: name: expected one of/);
    },
    patienceMs,
  );

  test(
    "takes everything with it when it is killed",
    async () => {
      const demo = start([]);
      const { input } = await demo.shows(/Ctrl-C/);
      demo.child.kill("SIGKILL");
      const ports = portsIn(input as string);
      for (const port of ports) while (await listens(port)) await Bun.sleep(5); // bounded by the test's time limit
      while (demo.leftovers().length > 0) await Bun.sleep(5);
    },
    patienceMs,
  );

  test(
    "uses the Valkey of VALKEY_URL, and a queue of its own while that one's is in use",
    async () => {
      const valkey = await startValkey({ password: "not to be shown" });
      endings.push(() => valkey.stop());
      const quiet = await start(["--once"], { VALKEY_URL: valkey.url }).end();
      expect(quiet.text).toContain('the queue "webhooks"');
      expect(quiet.text).not.toContain("not%20to%20be%20shown");
      expect(quiet.code).toBe(0);

      const queue = new Queue("webhooks", { connection: { url: valkey.url } });
      endings.push(() => queue.close());
      await queue.add("file.created", { of: "somebody else" });
      const busy = await start(["--once"], { VALKEY_URL: valkey.url }).end();
      expect(busy.text).toContain('the queue "webhooks-demo"');
      expect(busy.code).toBe(0);
      expect(await queue.getWaitingCount()).toBe(1); // not ours to deliver
    },
    patienceMs,
  );

  test(
    "says so when VALKEY_URL leads nowhere",
    async () => {
      const { code, text } = await start(["--once"], { VALKEY_URL: "redis://:secret@127.0.0.1:1" }).end();
      expect(text).toContain("No Valkey answers at 127.0.0.1:1");
      expect(text).not.toContain("secret");
      expect(code).toBe(1);
    },
    patienceMs,
  );

  test(
    "names what cannot be delivered in time, and ends with 1",
    async () => {
      const demo = start(["--once"], { WEBHOOK_RETRY_DELAYS: "1h" });
      const { code, text } = await demo.end();
      const message = /in time \(30 s\):\n {2}share\.linked: attempt 1 ended with HTTP 503, next in \d{4} s\n$/;
      expect(text).toMatch(message);
      expect(code).toBe(1);
      expect(demo.leftovers()).toEqual([]);
    },
    patienceMs,
  );

  test(
    "shows the last words of a part that dies, and ends with 1",
    async () => {
      const taken = createServer();
      await new Promise<void>((resolve) => taken.listen(0, "127.0.0.1", resolve));
      endings.push(() => taken.close());
      const { port } = taken.address() as { port: number };
      const demo = start(["--once"], { WORKER_PORT: String(port) });
      const { code, text } = await demo.end();
      expect(text).toContain("The worker ended unexpectedly (exit code 1). Its last output:");
      expect(text).toContain(`cannot listen on 127.0.0.1:${port}`);
      expect(code).toBe(1);
      expect(demo.leftovers()).toEqual([]);
    },
    patienceMs,
  );

  test("refuses options and settings that it does not understand", async () => {
    const option = await start(["--onec"]).end();
    expect(option).toMatchObject({ code: 2, text: expect.stringContaining("unknown option --onec") });
    for (const [given, shown] of [
      [["--shards", "0"], '"0"'],
      [["--shards=257", "--once"], '"257"'],
      [["--shards", "six"], '"six"'],
      [["--shards"], '""'],
    ] as const) {
      const text = `expected --shards to be a whole number from 1 to 256, got ${shown}`;
      expect(await start([...given]).end()).toMatchObject({ code: 2, text: expect.stringContaining(text) });
    }
    const plain = await start(["--once", "--shards", "6"], { VALKEY_URL: await testValkeyUrl() }).end();
    expect(plain).toMatchObject({ code: 1, text: expect.stringContaining("expected WEBHOOK_SHARDS to be 1") });
    const setting = await start(["--once"], { WEBHOOK_TIMEOUT: "ten" }).end();
    expect(setting).toMatchObject({ code: 1, text: expect.stringContaining("expected WEBHOOK_TIMEOUT to be") });
  });

  test("explains itself with --help and starts nothing", async () => {
    const demo = start(["--help"]);
    const { code, text } = await demo.end();
    expect(code).toBe(0);
    expect(text).toStartWith("usage: npm start");
  });
});

describe("a child process", () => {
  const startScript = (script: string) => {
    const lines: LogLine[] = [];
    const died = Promise.withResolvers<string>();
    const command = [process.execPath, "-e", script];
    const child = startChild({
      name: "part",
      command,
      env: process.env,
      onLine: (line) => lines.push(line),
      onDeath: died.resolve,
    });
    endings.push(() => child.stop(0));
    return { child, lines, died: died.promise };
  };

  test("is ready with the address it logs", async () => {
    const { child, lines } = startScript(
      'console.log("in plain words"); console.log(JSON.stringify({ message: "part.ready", url: "http://x" })); setInterval(() => {}, 1e6);',
    );
    expect(await child.url).toBe("http://x");
    expect(lines).toEqual([{ message: "part.ready", url: "http://x" }]);
  });

  test("is reported with its last lines, stderr too, when it ends by itself", async () => {
    const { died } = startScript('console.log("out"); console.error("err"); process.exit(3);');
    const message = await died;
    expect(message).toStartWith("The part ended unexpectedly (exit code 3). Its last output:\n");
    expect(message.split("\n").slice(1).sort()).toEqual(["  err", "  out"]);
  });

  test("is killed when it does not end in time", async () => {
    const { child } = startScript(
      'process.on("SIGTERM", () => {}); console.log(JSON.stringify({ message: "part.ready" })); setInterval(() => {}, 1e6);',
    );
    await child.url;
    await child.stop(50);
    expect(() => process.kill(child.pid, 0)).toThrow("ESRCH");
  });
});

describe("the report", () => {
  const row = {
    event: "file.created",
    status_code: 200,
    duration_ms: 7,
    attempt: 1,
    success: true,
    error: null,
    verdict: "delivered",
    isVerified: true,
  };

  test("colours only when told so, and aligns alike either way", () => {
    const plain = formatAttempt(row, createPaint(false));
    const coloured = formatAttempt(row, createPaint(true));
    expect(plain).toBe("  file.created           200          7        1  verified");
    expect(coloured).toContain("\x1b[32m200");
    expect(Bun.stripANSI(coloured).trimEnd()).toBe(plain);
  });

  test("says why an attempt failed and what comes next", () => {
    const failed = {
      ...row,
      status_code: null,
      success: false,
      error: "timeout",
      verdict: "retry",
      retry_in_ms: 5_040,
    };
    expect(formatAttempt({ ...failed, isVerified: undefined }, createPaint(false))).toBe(
      "  file.created           none         7        1  not ours   timeout, retry in 5.0 s",
    );
    expect(formatAttempt({ ...failed, verdict: "give_up" }, createPaint(false))).toEndWith("timeout, failed for good");
  });

  test("puts names, values and remarks in columns", () => {
    const pairs = [
      ["a", "1", "one"],
      ["long", "12"],
      ["b", "123", "three"],
    ] as const;
    expect(formatPairs(pairs, createPaint(false))).toBe("  a     1    one\n  long  12\n  b     123  three");
  });
});
