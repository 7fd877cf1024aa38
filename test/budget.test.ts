/** How the shards of a process share its budget of jobs. */
import { describe, expect, test } from "bun:test";
import { Budget, type Share } from "../src/queue/budget.ts";

function join(budget: Budget): { share: Share; told: () => number } {
  let told = 0;
  const share = budget.join(() => {
    told += 1;
  });
  return { share, told: () => told };
}

const take = (share: Share, jobs: number): void => {
  for (let i = 0; i < jobs; i++) share.took();
};

describe("a shard", () => {
  test("alone has room for all", () => {
    const { share } = join(new Budget(100));
    expect(share.room()).toBe(100);
    take(share, 100);
    expect(share.room()).toBe(0);
  });

  test("beside an idle one has room for three quarters, and then for its fair share", () => {
    const budget = new Budget(100);
    const [busy, idle] = [join(budget).share, join(budget).share];
    expect(busy.room()).toBe(100); // nobody else wants any
    take(busy, 90);
    expect(idle.room()).toBe(10);
    take(idle, 10);
    expect([busy.room(), idle.room()]).toEqual([0, 0]);
    busy.gaveBack();
    expect([busy.room(), idle.room()]).toEqual([0, 1]); // the busy one holds more than half
  });

  test("that holds nothing may take one, however full the budget is", () => {
    const budget = new Budget(10);
    const [full, other] = [join(budget).share, join(budget).share];
    take(full, 10);
    expect(other.room()).toBe(1);
    take(other, 1);
    expect(other.room()).toBe(0);
  });

  test("that was refused is told once there is room, one shard per job that ends", () => {
    const budget = new Budget(2);
    const [a, b, c] = [join(budget), join(budget), join(budget)];
    for (const { share } of [a, b, c]) take(share, 1);
    expect([a, b, c].map(({ share }) => share.room())).toEqual([0, 0, 0]);
    a.share.gaveBack();
    expect([a, b, c].map(({ told }) => told())).toEqual([1, 0, 0]);
    b.share.gaveBack();
    expect([a, b, c].map(({ told }) => told())).toEqual([1, 1, 0]);
  });

  test("gets its part of the room that jobs without a slot leave", () => {
    const budget = new Budget(4);
    const { share, told } = join(budget);
    take(share, 4);
    expect(share.room()).toBe(0);
    budget.excuse(3);
    expect(told()).toBe(1);
    expect(share.room()).toBe(3);
    budget.excuse(0);
    expect(share.room()).toBe(0);
  });

  test("goes on while those that were refused have their fair share, even if the budget does not divide evenly", () => {
    const budget = new Budget(11);
    const shares = [join(budget).share, join(budget).share, join(budget).share];
    for (const [index, jobs] of [4, 4, 3].entries()) take(shares[index] as Share, jobs);
    expect(shares.map((share) => share.room())).toEqual([0, 0, 0]);
    expect(shares.map((share) => share.mayGoOn())).toEqual([true, true, true]);
    take(shares[2] as Share, 2); // more than there is: whoever has more than its fair share gives back
    expect(shares.map((share) => share.mayGoOn())).toEqual([false, false, false]);
    for (let i = 0; i < 2; i++) shares[2]?.gaveBack();
    expect(shares.map((share) => share.mayGoOn())).toEqual([true, true, true]);
  });

  test("leaves no more than the others lack, however many of its jobs end before the first gives back", () => {
    const budget = new Budget(10);
    const [greedy, modest] = [join(budget).share, join(budget).share];
    take(greedy, 7);
    take(modest, 3);
    expect(modest.room()).toBe(0); // it lacks two
    const isLeaving = () => !greedy.mayGoOn();
    expect(Array.from({ length: 5 }, isLeaving)).toEqual([true, true, false, false, false]);
    for (let i = 0; i < 2; i++) {
      greedy.gaveBack();
      take(modest, modest.room());
    }
    expect(modest.room()).toBe(0);
    expect(Array.from({ length: 5 }, isLeaving)).toEqual([false, false, false, false, false]);
  });

  test("leaves although another one, which waits for its node, was to leave as well", () => {
    const budget = new Budget(9);
    const [frozen, greedy, modest] = [join(budget).share, join(budget).share, join(budget).share];
    take(frozen, 4);
    take(greedy, 4);
    take(modest, 1);
    expect(modest.room()).toBe(0);
    expect([frozen.mayGoOn(), greedy.mayGoOn()]).toEqual([false, false]);
  });

  test("that lacks jobs again gets them, after what was left for it went to another", () => {
    const budget = new Budget(6);
    const [greedy, modest] = [join(budget).share, join(budget).share];
    take(greedy, 5);
    take(modest, 1);
    for (let left = 0; left < 2; left++) {
      expect(modest.room()).toBe(0);
      expect(greedy.mayGoOn()).toBe(false);
      greedy.gaveBack();
      take(greedy, 1); // ahead of the other
    }
  });

  test("goes on with its next job unless it holds more than its fair share while another was refused", () => {
    const budget = new Budget(6);
    const [greedy, modest] = [join(budget).share, join(budget).share];
    take(greedy, 5);
    take(modest, 1);
    expect([greedy.mayGoOn(), modest.mayGoOn()]).toEqual([true, true]);
    expect(modest.room()).toBe(0);
    expect([greedy.mayGoOn(), modest.mayGoOn()]).toEqual([false, true]);
  });
});

test("whatever shards do, they hold at most the budget and one job each, and no shard is left without room for ever", () => {
  for (let seed = 1; seed <= 300; seed++) {
    let state = seed;
    const random = (below: number) => {
      state = (state * 1_103_515_245 + 12_345) & 0x7fffffff;
      return Math.floor((state / 0x7fffffff) * below);
    };
    const size = 1 + random(20);
    const budget = new Budget(size);
    const shards = Array.from({ length: 1 + random(6) }, () => ({ ...join(budget), held: 0 }));
    for (let step = 0; step < 200; step++) {
      const shard = shards[random(shards.length)] as (typeof shards)[number];
      const { share } = shard;
      if (random(2) === 0 && shard.held > 0) {
        share.gaveBack();
        shard.held -= 1;
      } else {
        const wanted = Math.min(share.room(), 1 + random(8));
        take(share, wanted);
        shard.held += wanted;
      }
      const total = shards.reduce((sum, { held }) => sum + held, 0);
      expect(total).toBeLessThanOrEqual(size + shards.length - 1);
    }
    for (const { share, held } of shards) if (held === 0) expect(share.room()).toBeGreaterThan(0);
  }
});
