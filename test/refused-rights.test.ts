/**
 * A Valkey that answers with errors: a worker says so once, with the reason, is unready while it lasts, asks ever more slowly,
 * and goes on by itself. What becomes of a worker that runs already: refused-rights.long.ts.
 */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { Redis } from "ioredis";
import { startReceiver } from "../src/dev/receiver.ts";
import { createFluxhook } from "../src/index.ts";
import { startWorkerProcess } from "./support/process.ts";
import {
  ask,
  becomesReady,
  becomesUnready,
  expectFewRefusals,
  FULL,
  STATES,
  setUp,
  warnings,
} from "./support/refusing-valkey.ts";
import { eventually, jobData } from "./support/stack.ts";

setDefaultTimeout(60_000);

const ROOT = join(import.meta.dir, "..");
const receiver = await startReceiver();
afterAll(() => receiver.stop());

describe("a worker that starts against", () => {
  test.concurrent.each(Object.entries(STATES))(
    "%s is not ready, says why once, and works when it is over",
    async (_, state) => {
      await using setup = await setUp();
      const end = await state.begin(setup);
      await setup.queue.add("file.created", jobData(receiver.url())).catch(() => {}); // refused, in some of the states
      const worker = await setup.startWorker();
      await becomesUnready(worker.health, state.reason);
      await expectFewRefusals(setup.admin);
      expect(worker.lines.map(({ message }) => message)).not.toContain("worker.ready");
      await eventually(
        () => warnings(worker.lines, state.reason).length,
        (count) => count === 1,
      );

      await end();
      await becomesReady(worker.health);
      await worker.line("worker.ready");
      await setup.queue.add("file.created", jobData(receiver.url(`/${worker.pid}`)));
      await eventually(
        () => receiver.requests.some(({ path }) => path === `/${worker.pid}`),
        (hasArrived) => hasArrived,
      );
      expect(warnings(worker.lines, state.reason)).toHaveLength(1);
      expect(worker.errors()).toBe("");
    },
  );
});

test.concurrent("a worker without the password that Valkey wants says so, asks ever more slowly, and goes on when none is wanted", async () => {
  await using setup = await setUp();
  const { valkey, admin } = setup;
  await admin.config("SET", "requirepass", "secret");
  const worker = startWorkerProcess({ VALKEY_URL: valkey.url });
  setup.atEnd(() => worker.stop());
  const health = `${(await worker.line("worker.listening")).url}/readyz`;
  await becomesUnready(health, /NOAUTH /);
  await expectFewRefusals(admin);
  expect(worker.lines.map(({ message }) => message)).not.toContain("worker.ready");
  expect(warnings(worker.lines, /NOAUTH /)).toHaveLength(1);
  await admin.config("SET", "requirepass", "");
  await becomesReady(health);
});

test.concurrent("a board whose user may not write is not ready, and says what to grant", async () => {
  await using setup = await setUp();
  const { valkey, admin, grant } = setup;
  await grant(...FULL, "-@write");
  const board = Bun.spawn([process.execPath, "src/board.ts"], {
    cwd: ROOT,
    env: {
      PATH: process.env.PATH ?? "",
      VALKEY_URL: valkey.url.replace("//", "//limited:pass@"),
      BOARD_PORT: "0",
    },
    stdio: ["ignore", "pipe", "inherit"],
  });
  setup.atEnd(() => board.kill());
  const [line] = (
    await board.stdout
      .getReader()
      .read()
      .then(({ value }) => new TextDecoder().decode(value))
  ).split("\n");
  const health = `${JSON.parse(line as string).url}/readyz`;
  await becomesUnready(health, /may not run SET: grant \+set/);
  await expectFewRefusals(admin);
  await grant(...FULL);
  await becomesReady(health);
});

test.concurrent("a user without INFO, as hosted services give, is enough: the worker delivers and is ready", async () => {
  await using setup = await setUp();
  await setup.grant("~*", "&*", "+@all", "-@dangerous");
  const worker = await setup.startWorker();
  await becomesReady(worker.health);
  await setup.queue.add("file.created", jobData(receiver.url()));
  await worker.line("delivery.attempted");
  await expectFewRefusals(setup.admin);
  expect(worker.lines.filter(({ level }) => level === "warn")).toEqual([]);
  expect(worker.errors()).toBe("");
  expect(await worker.stop()).toBe(0);
});

describe("a Valkey that loads its data for seconds", () => {
  const LOADING = "Valkey is loading";
  const KEYS = 5_000; // 40 s, unless they are told to come faster
  const SLOW = { "key-load-delay": "8000", "loading-process-events-interval-bytes": "1024" };

  test.concurrent("is that for worker, --check, command and package, in the same words, and the worker goes on by itself", async () => {
    await using setup = await setUp({ settings: SLOW, appendonly: false });
    const { valkey, admin } = setup;
    const worker = startWorkerProcess({ VALKEY_URL: valkey.url });
    setup.atEnd(() => worker.stop());
    const health = await worker.url("/readyz");
    await admin.mset(...Array.from({ length: KEYS }, (_, index) => [`key:${index}`, "x".repeat(64)]).flat());
    await admin.save();
    await valkey.kill();
    const restarted = valkey.restart();
    await becomesUnready(health, new RegExp(`^${LOADING}$`));

    const env = { PATH: process.env.PATH ?? "", VALKEY_URL: valkey.url };
    const run = async (...args: string[]) => {
      const child = Bun.spawn([process.execPath, ...args], { cwd: ROOT, env, stdio: ["ignore", "pipe", "pipe"] });
      const said = (await child.stdout.text()) + (await child.stderr.text());
      return { said, code: await child.exited };
    };
    const fluxhook = createFluxhook({ valkeyUrl: valkey.url });
    const read = () => fluxhook.readAttempts("u").catch((rejected: Error) => rejected);
    // All at once: one after the other might take longer than the loading.
    const [checked, status, error, { problems }] = await Promise.all([
      run("src/worker.ts", "--check"),
      run("src/cli.ts", "status"),
      read(),
      ask(health),
    ]);
    await fluxhook.close();
    expect([checked.said, checked.code]).toEqual([expect.stringContaining(LOADING), 69]);
    expect([status.said, status.code]).toEqual([expect.stringContaining(LOADING), 69]);
    expect(error).toMatchObject({ code: "VALKEY_AWAY", message: expect.stringContaining(LOADING) });
    expect(problems).toBe(LOADING);

    const impatient = new Redis(valkey.url, { enableReadyCheck: false });
    await impatient.config("SET", "key-load-delay", "0");
    impatient.disconnect();
    await restarted;
    await becomesReady(health);
    await setup.queue.add("file.created", jobData(receiver.url()));
    await worker.line("delivery.attempted");
  });
});

test.concurrent("a worker whose database does not exist never says that it is ready", async () => {
  await using setup = await setUp({ settings: { databases: "2" } });
  const { valkey } = setup;
  const worker = startWorkerProcess({ VALKEY_URL: `${valkey.url}/2` });
  expect(await worker.exited).toBe(78);
  expect(worker.output()).not.toContain("worker.ready");
});
