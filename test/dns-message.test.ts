import { expect, test } from "bun:test";
import { buildQuestion, parseDnsAnswer } from "../src/dns/message.ts";
import { createChance } from "./support/chance.ts";

const question = buildQuestion(7, "a.example", "A") as Buffer;

/** An alias to b.example by a pointer, and its address. */
const answer = Buffer.concat([
  Buffer.from([0, 7, 0x81, 0x80, 0, 1, 0, 2, 0, 0, 0, 0]),
  question.subarray(12),
  Buffer.from([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 4, 1, 0x62, 0xc0, 14]),
  Buffer.from([0xc0, 39, 0, 1, 0, 1, 0, 0, 1, 0, 0, 4, 192, 0, 2, 1]),
]);

test("an answer is read through its pointers, with the smallest TTL of its chain", () => {
  expect(parseDnsAnswer(answer, question, "A")).toEqual({
    kind: "addresses",
    addresses: ["192.0.2.1"],
    ttlSeconds: 9,
  });
});

test("an answer cut off anywhere is none, and one with wrong bytes never throws", () => {
  for (let length = 0; length < answer.length; length++) {
    expect(parseDnsAnswer(answer.subarray(0, length), question, "A")).toBeUndefined();
  }
  const { between } = createChance(1);
  for (let i = 0; i < 20_000; i++) {
    const broken = Buffer.from(answer);
    for (let j = 0; j < 3; j++) broken[Math.floor(between(0, broken.length))] = Math.floor(between(0, 256));
    parseDnsAnswer(broken, question, i % 2 === 0 ? "A" : "AAAA");
  }
});

test("a pointer to itself, or ahead, is no answer", () => {
  for (const target of [27, 60]) {
    const looped = Buffer.from(answer);
    looped[28] = target;
    expect(parseDnsAnswer(looped, question, "A")).toBeUndefined();
  }
});
