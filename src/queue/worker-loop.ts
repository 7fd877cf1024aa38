/**
 * The main loop of our worker, over BullMQ's public `getNextJob` and `processJob`.
 *
 * BullMQ's own loop fetches jobs one after the other, and starts none before it holds as many as it may or all there are:
 * where hundreds wait, the first would wait for as many round trips. This one starts each job as it comes, and while the
 * queue has more it fetches in parallel.
 */
import { type Job, type JobJson, type RedisQueueBackend, Worker, withDetachedContext } from "bullmq";
import { isAnswer, type Valkey } from "../valkey/connection.ts";
import { keysOf, MARKER } from "./layout.ts";

const PARALLEL_FETCH_AFTER = 3; // consecutive non-empty fetches before fetching in parallel
const HELD_BACK_SHARE = 1 / 8; // of its slots, for a worker that is held back
const MAX_PARALLEL_FETCHES = 64; // asked for by one call of `take`: more could not start soon, and other workers could
const ERROR_PAUSE_MS = 1000; // 1 s until the next fetch after one that failed
const MIN_REFUSED_PAUSE_MS = 500; // after something was refused; then twice as long each time
const MAX_REFUSED_PAUSE_MS = 5 * 1000; // 5 s: how long after Valkey's recovery it may be unknown to us
const LARGE = 4 * 1024 * 1024; // characters of a job's data: many such jobs on their way at once could fill the memory
const MIN_LIMIT_PAUSE_MS = 10; // how soon to ask again when a rate limit is about to end

/** What wants to know how the queue is doing. */
export interface QueueWatch {
  /** A job was taken. */
  taken(): void;
  /** No job was waiting. */
  empty(): void;
}

/**
 * A BullMQ worker with a loop of its own. It holds as many jobs as it has slots (BullMQ's `concurrency`), and one more for
 * each that is excused. Jobs that are being asked for count as held.
 */
export class LoopWorker extends Worker<unknown, string, string, RedisQueueBackend> {
  /** Epoch ms at which this worker last took a job, or was made. */
  lastPickUpAt = Date.now();
  /** Set by a subclass's constructor. */
  protected watch: QueueWatch | undefined;
  /** What the tokens of its locks begin with. A subclass may say more. */
  protected tokenPrefix = `${this.id}:`;

  #isLooping = false;
  #isHeldBack = false;
  #held = 0;
  #excused = 0;
  #allowed = 0; // jobs that may be taken though it is held back
  #fetchedInRow = 0;
  #tokens = 0;
  #isEmpty = true; // as the last fetch found the queue
  #isDrained = false; // as BullMQ has it: its next `getNextJob` waits for a job
  #hasWaited = false; // the current `getNextJob` did wait
  #wakeLoop = () => {};
  #endPause = () => {};
  #refusals = 0; // errors that Valkey has answered with
  #refusedPauseMs = 0; // 0 while Valkey accepts
  #refusedUntil = 0; // as of performance.now()

  #noteError = (error: Error): void => {
    if (isAnswer(error)) this.#slowDown();
  };

  /** How many jobs it may hold. */
  get capacity(): number {
    return this.concurrency + this.#excused;
  }

  /**
   * Fetch one job after the other, and only for some of the slots: what waits at the head of the queue is about to be moved
   * away, and who moves it should not have to wait for this process. {@link take} is not held back.
   */
  get isHeldBack(): boolean {
    return this.#isHeldBack;
  }

  set isHeldBack(isHeldBack: boolean) {
    this.#isHeldBack = isHeldBack;
    this.#allowed = 0;
    this.#wakeLoop();
  }

  /** How many jobs it fetches for by itself. */
  get #limit(): number {
    if (this.#refusedPauseMs > 0) return 1; // or each job that cannot be acknowledged would be sent again and again
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

  /** So many of the jobs in hand need no slot: as many more may be taken. */
  excuse(jobs: number): void {
    const more = jobs - this.#excused;
    this.#excused = jobs;
    if (more <= 0) return;
    this.#wakeLoop();
    if (!this.#isEmpty && !this.isHeldBack) this.take(more);
  }

  /** So many jobs at the head of the queue stay there: they may be taken at once, also while it is held back. */
  allow(jobs: number): void {
    const now = Math.min(jobs, Math.max(0, MAX_PARALLEL_FETCHES - this.#held + this.#excused));
    this.#allowed += jobs - now;
    this.take(now);
  }

  /** Fetch so many jobs in parallel, as far as there are slots. */
  take(jobs: number): void {
    if (!this.#mayTake || this.#refusedPauseMs > 0) return;
    const free = Math.min(jobs, MAX_PARALLEL_FETCHES, this.capacity - this.#held);
    // Whoever calls this may be at another job, and that job's trace must not go on in these.
    withDetachedContext(this.opts.telemetry, () => {
      for (let asked = 0; asked < free; asked++) this.#work(this.#nextToken());
    });
  }

  async #loop(): Promise<void> {
    this.#isLooping = true;
    while (this.#mayTake || this.#held > 0) {
      const pauseMs = this.#refusedUntil - performance.now();
      if (this.#mayTake && pauseMs > 0) await this.#pauseFor(pauseMs);
      else if (this.#mayTake && this.#held < this.#limit) await this.#takeNext();
      else await this.#change();
    }
    this.#isLooping = false;
  }

  /** Wait for the next job, which may be long in coming, and start it. */
  async #takeNext(): Promise<void> {
    const token = this.#nextToken();
    const wasDrained = this.#isDrained;
    this.#hasWaited = false;
    this.#held += 1;
    let job: Job | undefined;
    try {
      job = await this.getNextJob(token);
      // BullMQ waits for the next job of a drained queue, unless a rate limit holds: then it answers at once.
      if (job === undefined && wasDrained && !this.#hasWaited) await this.#waitForRateLimit();
    } catch (error) {
      await this.#pauseAfter(error as Error);
    }
    this.#held -= 1;
    if (job !== undefined) this.#work(token, job);
  }

  /** Process a job, and those that come after it, one with each acknowledgement. */
  async #work(token: string, taken?: Job): Promise<void> {
    let hasAsked = false;
    const mayFetchNext = () => {
      hasAsked = this.#refusedPauseMs === 0 && (this.#held <= this.#limit || this.#allowed > 0);
      if (this.#allowed > 0) this.#allowed -= 1;
      return hasAsked;
    };
    this.#held += 1;
    try {
      let job: Awaited<ReturnType<Worker["processJob"]>> = taken ?? (await this.moveToActive(token, this.opts.name));
      while (job) {
        const refusals = this.#refusals;
        job = await this.processJob(job, token, mayFetchNext);
        if (refusals === this.#refusals) this.#refusedPauseMs = 0;
      }
      if (hasAsked) this.#foundEmpty();
    } catch (error) {
      this.emit("error", error as Error);
    }
    this.#held -= 1;
    this.#wakeLoop();
  }

  /**
   * BullMQ fetches the job whose marker woke it, even if it was told to stop meanwhile. The marker goes back, to wake another
   * worker instead.
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

  /** BullMQ drops a job whose schedule cannot go on, and leaves it active, stalling for ever: it goes without one. */
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

  /** Something was refused: take nothing for a while, longer each time, and then one job at a time until one is acknowledged. */
  #slowDown(): void {
    this.#refusals += 1;
    const nowMs = performance.now();
    if (nowMs < this.#refusedUntil) return;
    this.#refusedPauseMs = Math.min(MAX_REFUSED_PAUSE_MS, Math.max(MIN_REFUSED_PAUSE_MS, 2 * this.#refusedPauseMs));
    this.#refusedUntil = nowMs + this.#refusedPauseMs;
  }

  /** Ends sooner when the worker is paused or closed. */
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

  /** Until a job ends, or more may be taken. */
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
