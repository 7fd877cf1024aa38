/**
 * One question, put to the name servers one after the other until one answers.
 */
import type { DnsAnswer, RecordType } from "./message.ts";
import type { NameServerClient, Reply } from "./name-server.ts";
import type { LookupRules } from "./resolv-conf.ts";

/**
 * What the servers make of a question: `refused` when all that spoke would not say, `silent` when some said nothing. Who asks may
 * put `no_name` in the place of addresses that may not be reached, and their kind in `cause`.
 */
export type Verdict =
  | Extract<DnsAnswer, { kind: "addresses" }>
  | { readonly kind: "no_name"; readonly cause?: string }
  | { readonly kind: "refused" | "silent" };

/**
 * Ask for the addresses of a name.
 *
 * A server that is silent for `tryMs` is asked once more or another is, `tries` times in all; its answer counts if it comes
 * yet. One that refuses is followed by the next at once, each once.
 *
 * @param servers    at least one
 * @param onVerdict  told once, unless the question was withdrawn
 * @returns withdraws the question
 */
export function askServers(
  servers: readonly NameServerClient[],
  { tryMs, tries }: Pick<LookupRules, "tryMs" | "tries">,
  name: string,
  type: RecordType,
  onVerdict: (verdict: Verdict) => void,
): () => void {
  const ordered = [...servers].sort((a, b) => Number(a.isSuspect) - Number(b.isSuspect));
  const withdrawals: (() => void)[] = [];
  let timer: Timer | undefined;
  let silences = 0;

  const end = (): void => {
    clearTimeout(timer);
    for (const withdraw of withdrawals) withdraw();
  };
  const settle = (verdict: Verdict): void => {
    end();
    onVerdict(verdict);
  };
  const ask = (): void => {
    const index = withdrawals.length;
    const server = ordered[index % ordered.length] as NameServerClient;
    const isLast = index + 1 >= Math.max(ordered.length, tries);
    timer = setTimeout(() => {
      server.silent();
      silences += 1;
      if (silences >= tries || isLast) settle({ kind: "silent" });
      else ask();
    }, tryMs).unref();
    withdrawals.push(server.ask(name, type, (reply) => heard(reply, index)));
  };
  const heard = (reply: Reply, index: number): void => {
    if (reply.kind === "addresses") settle(reply);
    else if (reply.kind === "no_name") settle({ kind: "no_name" });
    else if (index + 1 === withdrawals.length) {
      // no other is being asked yet
      clearTimeout(timer);
      if (index + 1 < ordered.length) ask();
      else settle({ kind: "refused" });
    }
  };
  ask();
  return end;
}
