/**
 * One question, asked of the name servers one after another until one answers.
 */
import type { DnsAnswer, RecordType } from "./message.ts";
import type { NameServerClient, Reply } from "./name-server.ts";
import type { LookupRules } from "./resolv-conf.ts";

/**
 * The servers' verdict on a question: `refused` when every server refused, `silent` when one or more did not answer. For blocked
 * addresses, the resolver substitutes `no_name` with their kind in `cause`.
 */
export type Verdict =
  | Extract<DnsAnswer, { kind: "addresses" }>
  | { readonly kind: "no_name"; readonly cause?: string }
  | { readonly kind: "refused" | "silent" };

/**
 * Ask for the addresses of a name.
 *
 * When a server is silent for `tryMs`, the next one is asked (or the same again, if it is the only one), `tries` times in total; a
 * late answer still counts. After a refusal, the next server is asked at once; each can refuse once.
 *
 * @param servers    at least one
 * @param onVerdict  called once, unless the question is canceled
 * @returns cancels the question
 */
export function askServers(
  servers: readonly NameServerClient[],
  { tryMs, tries }: Pick<LookupRules, "tryMs" | "tries">,
  name: string,
  type: RecordType,
  onVerdict: (verdict: Verdict) => void,
): () => void {
  const ordered = [...servers].sort((a, b) => Number(a.isSuspect) - Number(b.isSuspect));
  const cancels: (() => void)[] = []; // one per server asked
  let timer: Timer | undefined;
  let silences = 0;

  const end = (): void => {
    clearTimeout(timer);
    for (const cancel of cancels) cancel();
  };
  const settle = (verdict: Verdict): void => {
    end();
    onVerdict(verdict);
  };
  const ask = (): void => {
    const index = cancels.length;
    const server = ordered[index % ordered.length] as NameServerClient;
    const isLast = index + 1 >= Math.max(ordered.length, tries);
    timer = setTimeout(() => {
      server.silent();
      silences += 1;
      if (silences >= tries || isLast) settle({ kind: "silent" });
      else ask();
    }, tryMs).unref();
    cancels.push(server.ask(name, type, (reply) => replied(reply, index)));
  };
  const replied = (reply: Reply, index: number): void => {
    if (reply.kind === "addresses") settle(reply);
    else if (reply.kind === "no_name") settle({ kind: "no_name" });
    else if (index + 1 === cancels.length) {
      // no other server has been asked since
      clearTimeout(timer);
      if (index + 1 < ordered.length) ask();
      else settle({ kind: "refused" });
    }
  };
  ask();
  return end;
}
