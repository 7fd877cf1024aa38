/**
 * What an egress proxy says when it is tried, for `--check`.
 */
import type { NameServer } from "../dns/resolv-conf.ts";
import { createResolver } from "../dns/resolver.ts";
import { ProxyError } from "./failure.ts";
import { type AskForTunnel, createTunnels } from "./tunnel.ts";

/** The settings that are tried. */
export interface ProxyCheckOptions {
  readonly proxy: URL;
  readonly proxyResolves: boolean;
  readonly requireHttps: boolean;
  readonly dnsServers: readonly NameServer[];
  readonly ca: string | undefined;
}

/** What was found. `place` is the proxy's URL without its user. */
export interface ProxyFindings {
  readonly place: string;
  /** What it was asked, and what came of it. */
  readonly rows: readonly (readonly [string, string])[];
  /** Why nothing can be delivered through it; undefined when something can. */
  readonly problem: string | undefined;
}

type Answer = { readonly status: number } | { readonly cause: string } | "silent" | "not reached";

const NOBODY = "192.0.2.1"; // RFC 5737: no host has it, so that nobody is bothered
const NOBODYS_NAME = "fluxhook.invalid"; // RFC 6761: no host is called so
const WAIT_MS = 2 * 1000; // 2 s: a proxy that takes the request then tries to connect, for longer than anybody waits

/**
 * Ask a proxy for tunnels to a host that does not exist, at the ports of https and http.
 *
 * Whoever is let in is told that the host cannot be reached, or nothing for a while; whoever is not, is told so at once.
 *
 * @throws  never
 */
export async function checkProxy(options: ProxyCheckOptions): Promise<ProxyFindings> {
  const { proxy, proxyResolves, requireHttps, dnsServers, ca } = options;
  const askForTunnel = createTunnels({ url: proxy, resolve: createResolver({ servers: dnsServers }).resolve, ca });
  const host = proxyResolves ? NOBODYS_NAME : NOBODY;
  const ports = requireHttps ? [443] : [443, 80];
  const answers = await Promise.all(ports.map((port) => ask(askForTunnel, `${host}:${port}`)));
  return {
    place: proxy.origin,
    rows: answers.flatMap((answer, i) => {
      const said = describe(answer, ports[i] as number);
      return said === undefined ? [] : [[`CONNECT ${host}:${ports[i]}`, said] as const];
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
