import { expect, test } from "bun:test";
import { candidatesFor, parseNameServer, parseResolvConf } from "../src/dns/resolv-conf.ts";

test.each([
  ["10.0.0.2", { address: "10.0.0.2", port: 53 }],
  ["10.0.0.2:5353", { address: "10.0.0.2", port: 5353 }],
  ["fd00::2", { address: "fd00::2", port: 53 }],
  ["[fd00::2]:5353", { address: "fd00::2", port: 5353 }],
  ["fe80::1%eth0", { address: "fe80::1%eth0", port: 53 }],
])("%p is a name server", (text, expected) => {
  expect(parseNameServer(text)).toEqual(expected);
});

test.each([
  "",
  "dns.example",
  "10.0.0",
  "10.0.0.256",
  "10.0.0.2:0",
  "10.0.0.2:65536",
  "10.0.0.2:",
  "[fd00::2",
  "fd00:::2",
  "[10.0.0.2]",
])("%p is no name server", (text) => {
  expect(parseNameServer(text)).toBeUndefined();
});

test("a resolv.conf of Kubernetes is read as it is meant", () => {
  const text =
    "search ns.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\nnameserver fd00::a # second\noptions ndots:5 timeout:1 attempts:3 rotate\n";
  const rules = parseResolvConf(text);
  expect(rules).toEqual({
    servers: [
      { address: "10.96.0.10", port: 53 },
      { address: "fd00::a", port: 53 },
    ],
    search: ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local"],
    ndots: 5,
    tryMs: 1000,
    tries: 3,
    rotates: true,
  });
  expect(candidatesFor("web.example", rules).at(-1)).toBe("web.example");
  expect(candidatesFor("web.example.", rules)).toEqual(["web.example"]);
});

test("an empty resolv.conf, or one nobody understands, leaves the defaults and this machine", () => {
  const defaults = {
    servers: [{ address: "127.0.0.1", port: 53 }],
    search: [],
    ndots: 1,
    tryMs: 2000,
    tries: 2,
    rotates: false,
  };
  expect(parseResolvConf("")).toEqual(defaults);
  expect(parseResolvConf("nameserver x\noptions ndots:many timeout\n; a comment\nsortlist 1.2.3.4")).toEqual(defaults);
});
