/** When parked jobs return to one endpoint. */
import { expect, test } from "bun:test";
import { Schedule } from "../../src/isolation/pacing.ts";

const SPACING_MS = 1;
const HORIZON_MS = 30_000;

test("jobs of many users, one each, return at about the endpoint's pace", () => {
  const schedule = new Schedule();
  const times = Array.from({ length: 500 }, (_, user) => schedule.next(`usr_${user}`, 0, SPACING_MS, HORIZON_MS));
  expect(Math.max(...times.map((at) => at ?? Number.POSITIVE_INFINITY))).toBeLessThan(500 * SPACING_MS * 5);
});

test("a user with many jobs delays no user with few", () => {
  const schedule = new Schedule();
  const next = (user: string) => schedule.next(user, 0, SPACING_MS, HORIZON_MS) ?? Number.POSITIVE_INFINITY;
  for (let job = 0; job < 1_000; job++) next("greedy");
  for (let user = 0; user < 63; user++) expect(next(`usr_${user}`)).toBeLessThan(100 * SPACING_MS);
  const others = Array.from({ length: 64 }, (_, user) => next(`other_${user}`));
  expect(Math.max(...others)).toBeLessThan(1_000 * SPACING_MS);
});
