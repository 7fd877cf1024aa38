/**
 * One lookup: asks for a name's candidates in order, for both address families of each at once.
 */
import type { Address } from "./address.ts";
import type { RecordType } from "./message.ts";
import type { Verdict } from "./question.ts";

/**
 * The result of a lookup.
 *
 * - `none`        the name does not exist or has no address; or, with a `cause`, has an address of a blocked kind
 * - `unanswered`  no server said whether the name exists
 */
export type Found =
  | { readonly kind: "addresses"; readonly addresses: readonly Address[]; readonly ttlSeconds: number }
  | { readonly kind: "none"; readonly cause?: string | undefined }
  | { readonly kind: "unanswered" };

/** Asks one question. Returns a function that cancels it. */
export type Ask = (name: string, type: RecordType, onVerdict: (verdict: Verdict) => void) => () => void;

const GRACE_MS = 300; // how long to wait for the other family once one has addresses: some servers never answer for AAAA

/**
 * Look a name up.
 *
 * The first candidate with an address wins. A candidate that the servers refuse is skipped, as glibc does; one for which they are
 * silent ends the lookup, since the next would take as long.
 *
 * @param candidates  the names to ask for, in order; each accepted by `buildQuestion`
 * @param onEnd       called once, unless the lookup is canceled
 * @returns cancels the lookup
 */
export function lookUp(ask: Ask, candidates: readonly string[], onEnd: (found: Found) => void): () => void {
  let stop = (): void => {};
  let isDoubtful = false;
  let cause: string | undefined;
  const next = (index: number): void => {
    const candidate = candidates[index];
    if (candidate === undefined) {
      onEnd(isDoubtful ? { kind: "unanswered" } : { kind: "none", cause });
      return;
    }
    stop = askBoth(ask, candidate, (found) => {
      if (found.kind === "addresses" || found.kind === "unanswered") {
        onEnd(found);
        return;
      }
      if (found.kind === "refused") isDoubtful = true;
      else cause ??= found.cause;
      next(index + 1);
    });
  };
  next(0);
  return () => stop();
}

function askBoth(ask: Ask, name: string, onEnd: (found: Found | { kind: "refused" }) => void): () => void {
  const verdicts = new Map<RecordType, Verdict>();
  const cancels: (() => void)[] = [];
  let grace: Timer | undefined;
  let isOver = false;

  const end = (): void => {
    isOver = true;
    clearTimeout(grace);
    for (const cancel of cancels) cancel();
  };
  const settle = (): void => {
    end();
    onEnd(combine(verdicts));
  };
  for (const type of ["A", "AAAA"] as const) {
    const cancel = ask(name, type, (verdict) => {
      if (isOver) return;
      verdicts.set(type, verdict);
      if (verdicts.size === 2 || verdict.kind === "no_name") settle();
      else if (verdict.kind === "addresses" && verdict.addresses.length > 0) {
        grace = setTimeout(settle, GRACE_MS).unref();
      }
    });
    cancels.push(cancel);
  }
  return end;
}

/** IPv4 comes first, since machines without an IPv6 route are more common than the reverse. */
function combine(verdicts: ReadonlyMap<RecordType, Verdict>): Found | { kind: "refused" } {
  const all = [verdicts.get("A"), verdicts.get("AAAA")].filter((verdict) => verdict !== undefined);
  const missing = all.filter((verdict) => verdict.kind === "no_name");
  const cause = missing.find((verdict) => verdict.cause !== undefined)?.cause;
  if (cause !== undefined) return { kind: "none", cause }; // even if it has allowed addresses too
  const answers = all.filter((verdict) => verdict.kind === "addresses").filter((each) => each.addresses.length > 0);
  if (answers.length > 0) {
    return {
      kind: "addresses",
      addresses: answers.flatMap(({ addresses }) => addresses.map(asAddress)),
      ttlSeconds: Math.min(...answers.map(({ ttlSeconds }) => ttlSeconds)),
    };
  }
  if (missing.length > 0) return { kind: "none" };
  const kinds = all.map(({ kind }) => kind);
  if (kinds.includes("silent")) return { kind: "unanswered" };
  return { kind: kinds.includes("refused") ? "refused" : "none" };
}

function asAddress(address: string): Address {
  return { address, family: address.includes(":") ? 6 : 4 };
}
