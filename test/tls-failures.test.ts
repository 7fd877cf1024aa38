import { afterEach, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import type { Socket } from "node:net";
import { join } from "node:path";
import type { Outcome } from "../src/delivery/outcome.ts";
import { type Network, parseNetwork } from "../src/dns/address.ts";
import { requestFailure } from "../src/http/failure.ts";
import { createSender, type Sender } from "../src/http/sender.ts";
import { http, listen } from "./support/listener.ts";

const directory = join(import.meta.dir, "support");
const support = (name: string) => readFileSync(join(directory, name), "utf8");
const LOOPBACK = [parseNetwork("127.0.0.0/8") as Network];

const open: { stop(): Promise<unknown> }[] = [];
const senders: Sender[] = [];

afterEach(async () => {
  for (const sender of senders.splice(0)) sender.close();
  await Promise.all(open.splice(0).map((each) => each.stop()));
});

/** Send one event to a name at 127.0.0.1, with our test authority trusted; what came of it. */
async function sendTo(port: number, { host = "receiver.test", timeoutMs = 20_000, ca = support("ca.pem") } = {}) {
  const resolve = async () => [{ address: "127.0.0.1", family: 4 }] as const;
  const sender = createSender({ timeoutMs, allowNetworks: LOOPBACK, resolve, ca });
  senders.push(sender);
  const url = new URL(`https://${host}:${port}/in`);
  const head = `Host: ${url.host}\r\nContent-Length: 2\r\n`;
  const { durationMs, ...outcome } = await sender.send({ url, head, body: Buffer.from("{}") }, "1");
  return outcome as Omit<Outcome, "durationMs">;
}

const tls = (cause: string) => ({ kind: "failure", code: "tls", cause }) as const;
const failure = (code: string) => ({ kind: "failure", code }) as const;

describe("a certificate", () => {
  test.each([
    ["that has expired", "expired", "expired"],
    ["that is not valid yet", "not-yet-valid", "not_yet_valid"],
    ["that is signed by itself", "self-signed", "untrusted"],
    ["whose intermediate authority is missing", "missing-intermediate", "untrusted"],
    ["that its authority may not sign for this name", "name-constraints", "untrusted"],
    ["that is for clients only", "client-only", "untrusted"],
  ])("%s is a TLS failure with its cause, and no request is sent", async (_, pem, cause) => {
    const listener = await listen(({ socket }) => void socket.write(http(200)), { tls: support(`${pem}.pem`) });
    open.push(listener);
    expect(await sendTo(listener.port)).toEqual(tls(cause));
    expect(listener.exchanges).toEqual([]);
  });

  test("for another host name is a TLS failure with that cause, and no request is sent", async () => {
    const listener = await listen(({ socket }) => void socket.write(http(200)), { tls: support("right.pem") });
    open.push(listener);
    expect(await sendTo(listener.port, { host: "other.test" })).toEqual(tls("wrong_host"));
    expect(await sendTo(listener.port)).toMatchObject({ kind: "response", status: 200 });
    expect(listener.exchanges).toHaveLength(1);
  });

  test("by an authority that is not trusted is a TLS failure with that cause", async () => {
    const listener = await listen(() => {}, { tls: support("right.pem") });
    open.push(listener);
    expect(await sendTo(listener.port, { ca: support("self-signed.pem") })).toEqual(tls("untrusted"));
  });
});

describe("during the handshake, a server that", () => {
  const alert = (description: number) => Buffer.from([0x15, 3, 3, 0, 2, 2, description]); // a fatal one: RFC 8446 section 6

  test.each<[string, (socket: Socket) => void, object]>([
    ["answers in plain HTTP", (socket) => socket.end(http(400)), tls("handshake")],
    ["answers something else", (socket) => socket.end("SSH-2.0-OpenSSH_9.9\r\n"), tls("handshake")],
    ["shares no cipher with us", (socket) => socket.end(alert(40)), tls("handshake")],
    ["takes older versions of TLS only", (socket) => socket.end(alert(70)), tls("handshake")],
    ["fails inside", (socket) => socket.end(alert(80)), tls("handshake")],
    ["sends an alert that nobody knows", (socket) => socket.end(alert(255)), tls("handshake")],
    ["has no certificate for the name", (socket) => socket.end(alert(112)), tls("wrong_host")],
    ["resets the connection", (socket) => socket.resetAndDestroy(), failure("connection_reset")],
    ["closes the connection", (socket) => socket.end(), failure("connection_reset")],
  ])("%s is told apart", async (_, act, expected) => {
    const listener = await listen(() => {}, { onConnection: (socket) => void socket.once("data", () => act(socket)) });
    open.push(listener);
    expect(await sendTo(listener.port)).toEqual(expected as never);
  });

  test("says nothing ends at the deadline", async () => {
    const listener = await listen(() => {}, { onConnection: (socket) => void socket.resume() });
    open.push(listener);
    expect(await sendTo(listener.port, { timeoutMs: 300 })).toEqual(failure("timeout"));
  });
});

/** OpenSSL's own server: what BoringSSL, which Bun has, cannot be made to do. */
async function startOpenssl(...options: string[]): Promise<number> {
  const pem = join(directory, "right.pem");
  const command = ["openssl", "s_server", "-www", "-accept", "127.0.0.1:0", "-cert", pem, "-key", pem, ...options];
  const server = Bun.spawn(command, { stdin: "ignore", stdout: "pipe", stderr: "ignore" });
  open.push({
    stop() {
      server.kill();
      return server.exited;
    },
  });
  let printed = "";
  for await (const chunk of server.stdout) {
    printed += new TextDecoder().decode(chunk);
    const port = /^ACCEPT .*:(\d+)$/m.exec(printed)?.[1];
    if (port !== undefined) return Number(port);
  }
  throw new Error(`openssl did not start: ${printed}`);
}

describe.skipIf(Bun.which("openssl") === null)("OpenSSL's server", () => {
  const wantsCertificate = ["-Verify", "1", "-verify_return_error", "-CAfile", join(directory, "ca.pem")];

  test.each([
    ["with TLS 1.0 only", ["-tls1", "-cipher", "DEFAULT:@SECLEVEL=0"]],
    ["without a cipher that we have", ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-CCM8"]],
    ["that wants a client certificate, over TLS 1.2", ["-tls1_2", ...wantsCertificate]],
    [
      "that wants a client certificate, over TLS 1.3, where it says so after the handshake",
      ["-tls1_3", ...wantsCertificate],
    ],
  ])("%s is a TLS failure in the handshake", async (_, options) => {
    expect(await sendTo(await startOpenssl(...options))).toEqual(tls("handshake"));
  });
});

describe("an error's code decides, never its text:", () => {
  const failing = (code: string) => requestFailure(Object.assign(new Error("certificate has expired"), { code }));

  test.each([
    // What Bun calls a verification error that it has no name for, such as a name constraint.
    ["UNSPECIFIED", tls("untrusted")],
    ["PATH_LENGTH_EXCEEDED", tls("untrusted")],
    ["INVALID_CA", tls("untrusted")],
    ["CERT_UNTRUSTED", tls("untrusted")],
    ["CERT_REVOKED", tls("untrusted")],
    ["ERR_SSL_KEY_USAGE_BIT_INCORRECT", tls("untrusted")],
    ["HOSTNAME_MISMATCH", tls("wrong_host")],
    ["ERR_SSL_A_NEWER_REASON", tls("handshake")],
    ["ERR_TLS_HANDSHAKE_TIMEOUT", tls("handshake")],
    ["EPROTO", tls("handshake")],
    ["ERR_SSL_TLSV1_ALERT_NO_APPLICATION_PROTOCOL", failure("http2_only")],
    ["EHOSTUNREACH", failure("unreachable")],
    ["EACCES", failure("network")],
    ["ERR_SOCKET_CLOSED", failure("network")],
    ["", failure("network")],
  ])("%j", (code, expected) => {
    expect(failing(code)).toEqual(expected as never);
  });
});
