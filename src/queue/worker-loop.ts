/**
 * The main loop of our worker, on top of BullMQ's public `getNextJob` and `processJob`.
 *
 * BullMQ's own loop fetches jobs one after the other and starts none before its slots are full or the queue is empty: with
 * hundreds of jobs waiting, the first would wait for as many round trips. This loop starts each job as soon as it is fetched,
 * and fetches in parallel while the queue has more.
 */
import { type Job, type JobJson, type RedisQueueBackend, Worker, withDetachedContext } from "bullmq";
import { isAnswer, type Valkey } from "../valkey/connection.ts";
import type { Budget, Share } from "./budget.ts";
import { keysOf, MARKER } from "./layout.ts";
import { RefusalPause } from "./refusal-pause.ts";

const PARALLEL_FETCH_AFTER = 3; // consecutive non-empty fetches before fetching in parallel
const HELD_BACK_SHARE = 1 / 8; // share of slots that a held-back worker uses
const MAX_PARALLEL_FETCHES = 64; // per call of `take`: more could not start soon, while other workers could take them
const ERROR_PAUSE_MS = 1000; // 1 s after a failed fetch
const LARGE = 4 * 1024 * 1024; // characters of a job's data: fetching many such jobs in parallel could exhaust memory
const MIN_LIMIT_PAUSE_MS = 10; // how soon to ask again when a rate limit is about to end

/** Observes whether the queue has jobs. */
export interface QueueWatch {
  /** A job was taken. */
  taken(): void;
  /** No job was waiting. */
  empty(): void;
}

/**
 * A BullMQ worker with its own main loop. It holds one job per slot (BullMQ's `concurrency`), plus one for each excused job.
 * Pending fetches count as held.
 */
export class LoopWorker extends Worker<unknown, string, string, RedisQueueBackend> {
  /** When this worker last took a job, or was created, epoch ms. */
  lastPickUpAt = Date.now();
  /** Set by a subclass's constructor. */
  protected watch: QueueWatch | undefined;
  /** Prefix of its lock tokens. A subclass may extend it. */
  protected tokenPrefix = `${this.id}:`;

  #share: Share | undefined;
  #isLooping = false;
  #isHeldBack = false;
  #held = 0;
  #excused = 0;
  #allowed = 0; // jobs that may be taken although it is held back
  #fetchedInRow = 0;
  #tokens = 0;
  #isEmpty = true; // according to the last fetch
  #isDrained = false; // as in BullMQ: the next `getNextJob` blocks until there is a job
  #hasWaited = false; // whether the current `getNextJob` blocked
  #wakeLoop = () => {};
  #endPause = () => {};
  readonly #refusals = new RefusalPause();

  #noteError = (error: Error): void => {
    if (isAnswer(error)) this.#refusals.refused();
  };

  /** Hold jobs within a budget that the workers of other shards share. Before `run()`. */
  protected shareBudget(budget: Budget): void {
    this.#share = budget.join(() => {
      this.#wakeLoop();
      if (!this.#isEmpty && !this.isHeldBack) this.take(1);
    });
  }

  /** How many jobs it may hold. */
  get capacity(): number {
    return this.concurrency + this.#excused;
  }

  /**
   * Fetch sequentially and only for some of the slots: the jobs at the head of the queue are about to be moved away, and
   * moving them should not have to wait for this process. {@link take} is not held back.
   */
  get isHeldBack(): boolean {
    return this.#isHeldBack;
  }

  set isHeldBack(isHeldBack: boolean) {
    this.#isHeldBack = isHeldBack;
    this.#allowed = 0;
    this.#wakeLoop();
  }

  /** How many jobs the loop may hold by fetching by itself. */
  get #limit(): number {
    const own = this.#ownLimit;
    return this.#share === undefined ? own : Math.min(own, this.#held + this.#share.room());
  }

  get #ownLimit(): number {
    if (this.#refusals.isRecent) return 1; // otherwise jobs that cannot be acknowledged would be delivered again and again
    return this.#isHeldBack ? this.#excused + Math.ceil(this.concurrency * HELD_BACK_SHARE) : this.capacity;
  }

  get #mayTake(): boolean {
    return this.#isLooping && !this.closing && !this.paused;
  }

  override async run(): Promise<void> {
    if (this.running) throw new Error("the worker is already running");
    this.running = true;
    this.on("error", this.#noteError);
    try {
      if (this.closing || this.paused) return;
      await this.startStalledCheckTimer();
      this.lockManager.start();
      this.mainLoopRunning = withDetachedContext(this.opts.telemetry, () => this.#loop());
      await this.mainLoopRunning;
    } finally {
      this.running = false;
      this.off("error", this.#noteError);
    }
  }

  override async pause(doNotWaitActive?: boolean): Promise<void> {
    const paused = super.pause(doNotWaitActive);
    this.#wake();
    await paused;
  }

  override async resume(): Promise<void> {
    await super.resume();
    this.#wake();
  }

  override async close(force?: boolean): Promise<void> {
    const closed = super.close(force);
    this.#wake();
    await closed;
  }

  /** This many of the held jobs need no slot, so as many more may be taken. */
  excuse(jobs: number): void {
    const more = jobs - this.#excused;
    this.#excused = jobs;
    if (more <= 0) return;
    this.#wakeLoop();
    if (!this.#isEmpty && !this.isHeldBack) this.take(more);
  }

  /** This many jobs stay at the head of the queue: they may be taken now, even while held back. */
  allow(jobs: number): void {
    const now = Math.min(jobs, Math.max(0, MAX_PARALLEL_FETCHES - this.#held + this.#excused));
    this.#allowed += jobs - now;
    this.take(now);
  }

  /** Fetch this many jobs in parallel, limited by free slots. */
  take(jobs: number): void {
    if (!this.#mayTake || this.#refusals.isRecent) return;
    const room = this.#share?.room() ?? MAX_PARALLEL_FETCHES;
    const free = Math.min(jobs, MAX_PARALLEL_FETCHES, room, this.capacity - this.#held);
    // The caller may be processing another job, whose trace must not continue in these.
    withDetachedContext(this.opts.telemetry, () => {
      for (let asked = 0; asked < free; asked++) this.#work(this.#nextToken());
    });
  }

  async #loop(): Promise<void> {
    this.#isLooping = true;
    while (this.#mayTake || this.#held > 0) {
      const pauseMs = this.#refusals.leftMs;
      if (this.#mayTake && pauseMs > 0) await this.#pauseFor(pauseMs);
      else if (this.#mayTake && this.#held < this.#limit) await this.#takeNext();
      else await this.#change();
    }
    this.#isLooping = false;
  }

  /** Wait for the next job, however long, and start it. */
  async #takeNext(): Promise<void> {
    const token = this.#nextToken();
    const wasDrained = this.#isDrained;
    this.#hasWaited = false;
    this.#held += 1;
    let job: Job | undefined;
    try {
      job = await this.getNextJob(token);
      // On a drained queue BullMQ blocks until the next job, but returns immediately during a rate limit.
      if (job === undefined && wasDrained && !this.#hasWaited) await this.#waitForRateLimit();
    } catch (error) {
      await this.#pauseAfter(error as Error);
    }
    this.#held -= 1;
    if (job !== undefined) this.#work(token, job);
  }

  /** Process a job, and then each job that is fetched with the previous one's acknowledgement. */
  async #work(token: string, taken?: Job): Promise<void> {
    let hasAsked = false;
    let isLeaving = false; // BullMQ asks again when Valkey refuses an acknowledgement
    const mayFetchNext = () => {
      isLeaving ||= this.#share?.mayGoOn() === false;
      hasAsked = !isLeaving && !this.#refusals.isRecent && (this.#held <= this.#ownLimit || this.#allowed > 0);
      if (this.#allowed > 0) this.#allowed -= 1;
      return hasAsked;
    };
    this.#held += 1;
    this.#share?.took();
    try {
      let job: Awaited<ReturnType<Worker["processJob"]>> = taken ?? (await this.moveToActive(token, this.opts.name));
      while (job) {
        const refusals = this.#refusals.count;
        job = await this.processJob(job, token, mayFetchNext);
        if (refusals === this.#refusals.count) this.#refusals.accepted();
      }
      if (hasAsked) this.#foundEmpty();
    } catch (error) {
      this.emit("error", error as Error);
    }
    this.#held -= 1;
    this.#share?.gaveBack();
    this.#wakeLoop();
  }

  /**
   * BullMQ fetches the job whose marker woke it even if the worker was stopped meanwhile. Put the marker back instead, to wake
   * another worker.
   */
  protected override async moveToActive(token: string, name?: string): Promise<Job> {
    if (this.closing || this.paused) {
      await (this.opts.connection as Valkey).zadd(keysOf(this).marker, MARKER.score, MARKER.member);
      return undefined as never;
    }
    const job = await super.moveToActive(token, name);
    this.#fetchedInRow = job === undefined ? 0 : this.#fetchedInRow + 1;
    if (job === undefined) this.#foundEmpty();
    else if (this.#fetchedInRow > PARALLEL_FETCH_AFTER && !this.isHeldBack) this.take(2);
    return job;
  }

  /** BullMQ drops a job whose schedule cannot continue, leaving it active and stalling forever: retry without the schedule. */
  protected override async nextJobFromJobData(stored?: JobJson, jobId?: string, token?: string): Promise<Job> {
    this.#isDrained = !stored;
    if (stored) {
      this.#isEmpty = false;
      this.lastPickUpAt = Date.now();
      this.watch?.taken();
    }
    if (stored && stored.data?.length > LARGE) this.#fetchedInRow = 0;
    const job = await super.nextJobFromJobData(stored, jobId, token);
    if (job !== undefined || !stored) return job;
    const opts = { ...stored.opts, repeatJobKey: undefined };
    return await super.nextJobFromJobData({ ...stored, opts, repeatJobKey: undefined }, jobId, token);
  }

  protected override getBlockTimeout(blockUntil: number): number {
    this.#hasWaited = true;
    return super.getBlockTimeout(blockUntil);
  }

  #foundEmpty(): void {
    this.#isEmpty = true;
    this.watch?.empty();
  }

  async #waitForRateLimit(): Promise<void> {
    if (!this.#mayTake) return;
    const limitMs = await this.backend.getRateLimitTtl(this.opts.limiter?.max);
    await this.#pauseFor(this.getRateLimitDelay(Math.max(MIN_LIMIT_PAUSE_MS, limitMs)));
  }

  async #pauseAfter(error: Error): Promise<void> {
    if (!this.#mayTake) return;
    this.emit("error", error);
    if (!isAnswer(error)) await this.#pauseFor(ERROR_PAUSE_MS);
  }

  /** Ends early when the worker is paused or closed. */
  #pauseFor(ms: number): Promise<void> {
    if (!this.#mayTake) return Promise.resolve();
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, ms);
    this.#endPause = () => {
      clearTimeout(timer);
      resolve();
    };
    return promise;
  }

  /** Wait until a job ends, or more may be taken. */
  #change(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wakeLoop = resolve;
    return promise;
  }

  #wake(): void {
    this.#endPause();
    this.#wakeLoop();
  }

  #nextToken(): string {
    return this.tokenPrefix + this.#tokens++;
  }
}
