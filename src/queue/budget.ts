/**
 * How many jobs a process holds, shared by the workers of its shards. Pure.
 */

/** Beyond this part of the budget a shard keeps to its fair share, so that room is left for the others. */
const SHARED_PART = 3 / 4;

/** A shard's part in the budget. */
export interface Share {
  /** How many more jobs it may take now. 0 is remembered: it is told when there is room again. */
  room(): number;
  /**
   * Whether it may go on with the next job when one ends: not beyond its fair share while another was refused that has less.
   * If not, it gives back.
   */
  mayGoOn(): boolean;
  /** It took a job. */
  took(): void;
  /** A job ended. */
  gaveBack(): void;
}

/** A budget of jobs. A shard that holds nothing may always take one, so that none ever waits for another. */
export class Budget {
  #size: number;
  #held = 0;
  readonly #shares: OwnShare[] = [];
  readonly #refused = new Set<OwnShare>(); // in the order in which they were refused

  constructor(readonly slots: number) {
    this.#size = slots;
  }

  /** This many of the held jobs need no slot, so as many more may be taken. */
  excuse(jobs: number): void {
    const more = this.slots + jobs - this.#size;
    this.#size = this.slots + jobs;
    if (more > 0) this.#tellRefused(more);
  }

  /** Give a shard its share. @param onRoom  called when it was refused and there is room again */
  join(onRoom: () => void): Share {
    const share: OwnShare = {
      held: 0,
      leaving: 0,
      onRoom,
      room: () => this.#roomFor(share),
      mayGoOn: () => this.#mayGoOn(share),
      took: () => {
        share.held += 1;
        this.#held += 1;
      },
      gaveBack: () => {
        if (share.leaving > 0) share.leaving -= 1;
        share.held -= 1;
        this.#held -= 1;
        this.#tellRefused(1);
      },
    };
    this.#shares.push(share);
    return share;
  }

  #roomFor(share: OwnShare): number {
    const free = this.#size - this.#held;
    const fair = this.#fairShare();
    const shared = Math.floor(this.#size * SHARED_PART) - this.#held;
    const room = Math.max(0, Math.min(free, Math.max(fair - share.held, shared)), share.held === 0 ? 1 : 0);
    if (room === 0) this.#refused.add(share);
    else this.#refused.delete(share);
    return room;
  }

  #mayGoOn(share: OwnShare): boolean {
    const fair = this.#fairShare();
    if (share.held - share.leaving <= fair) return true;
    // Going on costs nothing; a shard that takes what this one leaves needs a script for it. So no more leave than are needed:
    // those that end in one turn are all asked before the first of them gives back.
    const wanted = [...this.#refused].reduce((sum, { held }) => sum + Math.max(0, fair - held), 0);
    if (share.leaving >= Math.max(this.#held - this.#size, wanted)) return true;
    share.leaving += 1;
    return false;
  }

  /** The whole, by all shards that hold jobs or would like to. */
  #fairShare(): number {
    const busy = this.#shares.filter((share) => share.held > 0 || this.#refused.has(share)).length;
    return Math.max(1, Math.floor(this.#size / Math.max(1, busy)));
  }

  #tellRefused(jobs: number): void {
    for (const share of [...this.#refused].slice(0, jobs)) {
      this.#refused.delete(share);
      share.onRoom();
    }
  }
}

interface OwnShare extends Share {
  held: number;
  /** How many of them do not go on. Each share has its own count: a node that hangs keeps no other from leaving. */
  leaving: number;
  readonly onRoom: () => void;
}
