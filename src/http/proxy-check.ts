/**
 * Tries out the egress proxy, for `--check`.
 */
import type { NameServer } from "../dns/resolv-conf.ts";
import { createResolver } from "../dns/resolver.ts";
import { ProxyError } from "./failure.ts";
import { type AskForTunnel, createTunnels } from "./tunnel.ts";

/** The settings that the check uses. */
export interface ProxyCheckOptions {
  readonly proxy: URL;
  readonly proxyResolves: boolean;
  readonly requireHttps: boolean;
  readonly dnsServers: readonly NameServer[];
  readonly ca: string | undefined;
}

/** The result of the check. `place` is the proxy's URL without credentials. */
export interface ProxyFindings {
  readonly place: string;
  /** Each request to the proxy, with its result. */
  readonly rows: readonly (readonly [string, string])[];
  /** Why nothing can be delivered through the proxy; undefined when it works. */
  readonly problem: string | undefined;
}

type Answer = { readonly status: number } | { readonly cause: string } | "silent" | "not reached";

const UNUSED_ADDRESS = "192.0.2.1"; // RFC 5737: reserved for documentation
const UNUSED_NAME = "fluxhook.invalid"; // RFC 6761: never resolves
const WAIT_MS = 2 * 1000; // 2 s: a proxy that accepts the request then tries to connect, which can take minutes

/**
 * Ask the proxy for tunnels to a host that does not exist, on the https and http ports.
 *
 * A proxy that accepts us reports the host as unreachable, or does not answer for a while; one that rejects us says so at once.
 *
 * @throws  never
 */
export async function checkProxy(options: ProxyCheckOptions): Promise<ProxyFindings> {
  const { proxy, proxyResolves, requireHttps, dnsServers, ca } = options;
  const askForTunnel = createTunnels({ url: proxy, resolve: createResolver({ servers: dnsServers }).resolve, ca });
  const host = proxyResolves ? UNUSED_NAME : UNUSED_ADDRESS;
  const ports = requireHttps ? [443] : [443, 80];
  const answers = await Promise.all(ports.map((port) => ask(askForTunnel, `${host}:${port}`)));
  return {
    place: proxy.origin,
    rows: answers.flatMap((answer, i) => {
      const result = describe(answer, ports[i] as number);
      return result === undefined ? [] : [[`CONNECT ${host}:${ports[i]}`, result] as const];
    }),
    problem: problemOf(answers[0] as Answer),
  };
}

function ask(askForTunnel: AskForTunnel, authority: string): Promise<Answer> {
  return new Promise((settle) => {
    let wasAsked = false;
    const stop = askForTunnel(authority, {
      asked() {
        wasAsked = true;
      },
      answered(status, socket) {
        clearTimeout(timer);
        socket.destroy();
        settle({ status });
      },
      failed(error) {
        clearTimeout(timer);
        const { cause } = (error instanceof ProxyError ? error.result : {}) as { readonly cause?: string };
        settle({ cause: cause ?? "invalid_response" });
      },
    });
    const timer = setTimeout(() => {
      stop();
      settle(wasAsked ? "silent" : "not reached");
    }, WAIT_MS);
  });
}

function describe(answer: Answer, port: number): string | undefined {
  if (answer === "silent") return "allowed: no refusal within 2 s";
  if (answer === "not reached" || "cause" in answer) return undefined;
  if (answer.status < 300 || answer.status >= 500) return `allowed: ${answer.status}`;
  return `refused: ${answer.status}${port === 80 ? "; events to http:// endpoints would wait" : ""}`;
}

function problemOf(answer: Answer): string | undefined {
  if (answer === "silent") return undefined;
  if (answer === "not reached") return "cannot be reached: timeout";
  if ("cause" in answer) return `cannot be reached: ${answer.cause}`;
  return answer.status === 401 || answer.status === 407
    ? `does not let us in (${answer.status}): wrong user or password, or its rules`
    : undefined;
}
