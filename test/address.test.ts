import { describe, expect, test } from "bun:test";
import { blockedRange, literalOf, type Network, parseNetwork } from "../src/dns/address.ts";

/** Parse networks that are known to be right. */
function networks(...texts: string[]): Network[] {
  return texts.map((text) => parseNetwork(text) ?? expect.unreachable(`${text} is a network`));
}

/** First and last address of each range that is not public, and what the guard calls it. IANA's special-purpose registries. */
const SPECIAL: [name: string, first: string, last: string, range: string][] = [
  ["this network", "0.0.0.0", "0.255.255.255", "unspecified"],
  ["private, class A", "10.0.0.0", "10.255.255.255", "private"],
  ["carrier-grade NAT", "100.64.0.0", "100.127.255.255", "carrierGradeNat"],
  ["loopback", "127.0.0.0", "127.255.255.255", "loopback"],
  ["link-local, with cloud metadata", "169.254.0.0", "169.254.255.255", "linkLocal"],
  ["private, class B", "172.16.0.0", "172.31.255.255", "private"],
  ["IETF protocol assignments", "192.0.0.0", "192.0.0.255", "reserved"],
  ["documentation 1", "192.0.2.0", "192.0.2.255", "reserved"],
  ["6to4 relays", "192.88.99.0", "192.88.99.255", "reserved"],
  ["private, class C", "192.168.0.0", "192.168.255.255", "private"],
  ["benchmarks", "198.18.0.0", "198.19.255.255", "reserved"],
  ["documentation 2", "198.51.100.0", "198.51.100.255", "reserved"],
  ["documentation 3", "203.0.113.0", "203.0.113.255", "reserved"],
  ["multicast", "224.0.0.0", "239.255.255.255", "multicast"],
  ["reserved, class E", "240.0.0.0", "255.255.255.254", "reserved"],
  ["broadcast", "255.255.255.255", "255.255.255.255", "broadcast"],
  ["AS112", "192.175.48.0", "192.175.48.255", "as112"],
  ["AS112, DNAME", "192.31.196.0", "192.31.196.255", "as112"],
  ["AMT", "192.52.193.0", "192.52.193.255", "amt"],

  ["v6 unspecified", "::", "::", "unspecified"],
  ["v6 loopback", "::1", "::1", "loopback"],
  ["v6 IPv4-compatible", "::2", "::ffff:ffff", "reserved"],
  ["v6 IPv4-translated (SIIT)", "::ffff:0:0:0", "::ffff:0:ffff:ffff", "rfc6145"],
  ["v6 NAT64, local", "64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", "rfc6052"],
  ["v6 discard", "100::", "100::ffff:ffff:ffff:ffff", "discard"],
  ["v6 below global unicast", "64:ff9b:2::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "reserved"],
  ["v6 Teredo", "2001::", "2001:0:ffff:ffff:ffff:ffff:ffff:ffff", "teredo"],
  ["v6 benchmarks", "2001:2::", "2001:2:0:ffff:ffff:ffff:ffff:ffff", "benchmarking"],
  ["v6 AMT", "2001:3::", "2001:3:ffff:ffff:ffff:ffff:ffff:ffff", "amt"],
  ["v6 AS112", "2001:4:112::", "2001:4:112:ffff:ffff:ffff:ffff:ffff", "as112v6"],
  ["v6 ORCHID", "2001:10::", "2001:1f:ffff:ffff:ffff:ffff:ffff:ffff", "deprecatedOrchid"],
  ["v6 ORCHIDv2", "2001:20::", "2001:2f:ffff:ffff:ffff:ffff:ffff:ffff", "orchid2"],
  ["v6 drone ids", "2001:30::", "2001:3f:ffff:ffff:ffff:ffff:ffff:ffff", "droneRemoteIdProtocolEntityTags"],
  ["v6 protocol assignments", "2001:40::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", "reserved"],
  ["v6 documentation", "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "reserved"],
  ["v6 documentation 2", "3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", "reserved"],
  ["v6 6to4", "2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "6to4"],
  ["v6 above global unicast", "4000::", "5eff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "reserved"],
  ["v6 segment routing", "5f00::", "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "segmentRouting"],
  ["v6 unassigned", "5f01::", "fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "reserved"],
  ["v6 unique local", "fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "uniqueLocal"],
  ["v6 unassigned, high", "fe00::", "fe7f:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "reserved"],
  ["v6 link-local", "fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "linkLocal"],
  ["v6 site-local", "fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "deprecatedSiteLocal"],
  ["v6 multicast", "ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "multicast"],
];

/** The neighbours on both sides of every special range, where they are public. */
const PUBLIC = [
  ...["1.0.0.0", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0"],
  ...["169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "191.255.255.255", "192.0.1.0", "192.0.1.255"],
  ...["192.0.3.0", "192.31.195.255", "192.31.197.0", "192.52.192.255", "192.52.194.0", "192.88.98.255", "192.88.100.0"],
  ...["192.167.255.255", "192.169.0.0", "192.175.47.255", "192.175.49.0", "198.17.255.255", "198.20.0.0"],
  ...["198.51.99.255", "198.51.101.0", "203.0.112.255", "203.0.114.0", "223.255.255.255", "1.1.1.1", "8.8.8.8"],
  ...["2000::", "2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:200::", "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff"],
  ...["2001:db9::", "2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2003::", "2606:4700:4700::1111", "3ffe::"],
  ...["3fff:1000::", "3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"],
  ...["168.63.129.15", "168.63.129.17", "161.25.255.255", "161.27.0.0", "166.7.255.255", "166.12.0.0"],
  ...[
    "199.36.153.3",
    "199.36.153.12",
    "2600:2d00:2:fff::",
    "2600:2d00:2:1001::",
    "64:ff9b::808:808",
    "64:ff9b::101:101",
  ],
  "2606:4700::5efe:808:808",
];

const mapped = (ipv4: string) => [`::ffff:${ipv4}`, `0:0:0:0:0:ffff:${hexOf(ipv4)}`, `::FFFF:${hexOf(ipv4)}`];

function hexOf(ipv4: string): string {
  const [a, b, c, d] = ipv4.split(".").map(Number) as [number, number, number, number];
  return `${(a * 256 + b).toString(16)}:${(c * 256 + d).toString(16)}`;
}

describe("the guard", () => {
  test.each(SPECIAL)("blocks %s, from %s to %s, as %s", (_, first, last, range) => {
    for (const address of [first, last]) {
      expect(blockedRange(address, [])).toBe(range);
      if (address.includes(".")) for (const form of mapped(address)) expect(blockedRange(form, [])).toBe(range);
    }
  });

  test.each(PUBLIC)("lets %s pass, in its mapped forms too", (address) => {
    expect(blockedRange(address, [])).toBeUndefined();
    if (address.includes(".")) for (const form of mapped(address)) expect(blockedRange(form, [])).toBeUndefined();
  });

  test("judges NAT64 by the IPv4 address inside, whatever that is", () => {
    const all = [...SPECIAL.flatMap(([, first, last]) => [first, last]), ...PUBLIC].filter((each) =>
      each.includes("."),
    );
    expect(all.length).toBeGreaterThan(60);
    for (const ipv4 of all) {
      expect([ipv4, blockedRange(`64:ff9b::${hexOf(ipv4)}`, [])]).toEqual([ipv4, blockedRange(ipv4, [])]);
    }
  });

  test.each([
    ["Azure's agent", "168.63.129.16", "168.63.129.16"],
    ["IBM Cloud's infrastructure services", "161.26.0.0", "161.26.255.255"],
    ["IBM Cloud's private endpoints", "166.8.0.0", "166.11.255.255"],
    ["Google Cloud's private endpoints", "199.36.153.4", "199.36.153.11"],
    ["Google Cloud's private endpoints, v6", "2600:2d00:2:1000::", "2600:2d00:2:1000:ffff:ffff:ffff:ffff"],
    ["Google Cloud's other private endpoints, v6", "2600:2d00:2:2000::", "2600:2d00:2:2000:ffff:ffff:ffff:ffff"],
  ])("blocks %s, from %s to %s, although they look public", (_, first, last) => {
    for (const address of [first, last]) {
      expect(blockedRange(address, [])).toBe("cloudService");
      expect(blockedRange(address, networks(address))).toBeUndefined();
      if (!address.includes(".")) continue;
      for (const form of [...mapped(address), `64:ff9b::${hexOf(address)}`]) {
        expect(blockedRange(form, [])).toBe("cloudService");
        expect(blockedRange(form, networks(address))).toBeUndefined();
      }
    }
  });

  test.each(["127.0.0.1", "10.0.0.1", "169.254.169.254"])("blocks %s inside every transition format", (ipv4) => {
    const hex = hexOf(ipv4);
    const forms = [`::${ipv4}`, `::${hex}`, `64:ff9b::${hex}`, `64:ff9b:1::${hex}`, `::ffff:0:${hex}`];
    forms.push(`2002:${hex}::`, `2002:${hex}::1`, `2001:0:${hex}::`, `2001::${hex}`, `fe80::5efe:${hex}`);
    for (const form of forms) expect([form, blockedRange(form, [])]).not.toEqual([form, undefined]);
  });

  test.each(["", " ", "example.com", "localhost", "127.1", "0x7f.1", "010.0.0.1", "2130706433", "1.1.1", "1.1.1.1.1"])(
    "calls %p invalid, since a resolver never gives such an address",
    (text) => {
      expect(blockedRange(text, [])).toBe("invalid");
    },
  );

  test.each([
    "1.1.1.256",
    "1.1.1.1 ",
    "1.1.1.1/32",
    "[::1]",
    ":::1",
    "1::2::3",
    "::1/128",
    "12345::",
    "::ffff:1.1.1.256",
    "::8.8.8.8",
  ])("calls %p invalid", (text) => {
    expect(blockedRange(text, [])).toBe("invalid");
  });

  test("looks through a zone", () => {
    expect(blockedRange("fe80::1%eth0", [])).toBe("linkLocal");
    expect(blockedRange("::1%lo", [])).toBe("loopback");
  });
});

describe("the allow-list", () => {
  test.each([
    ["10.0.0.0/8", "10.1.2.3", undefined],
    ["10.0.0.0/8", "::ffff:10.1.2.3", undefined],
    ["10.0.0.0/8", "11.1.2.3", undefined],
    ["10.0.0.0/8", "192.168.0.1", "private"],
    ["10.0.0.0/8", "127.0.0.1", "loopback"],
    ["10.0.0.0/8", "a00::1", "reserved"],
    ["10.0.0.0/8", "::a01:203", "reserved"],
    ["10.0.0.0/8", "::10.1.2.3", "invalid"],
    ["10.1.2.3/32", "10.1.2.3", undefined],
    ["10.1.2.3/32", "10.1.2.4", "private"],
    ["10.1.2.3", "10.1.2.3", undefined],
    ["10.1.2.3", "10.1.2.2", "private"],
    ["127.0.0.0/8", "127.255.255.255", undefined],
    ["127.0.0.0/8", "::1", "loopback"],
    ["::1/128", "::1", undefined],
    ["::1", "::1", undefined],
    ["::1", "127.0.0.1", "loopback"],
    ["fd00::/8", "fd12:3456::1", undefined],
    ["fd00::/8", "fc00::1", "uniqueLocal"],
    ["64:ff9b::/96", "64:ff9b::808:808", undefined],
    ["64:ff9b::/96", "64:ff9b::a00:1", "private"],
    ["64:ff9b::a00:1", "64:ff9b::a00:1", "private"],
    ["::/0", "64:ff9b::a00:1", "private"],
    ["10.0.0.0/8", "64:ff9b::a00:1", undefined],
    ["10.0.0.0/8", "64:ff9b::7f00:1", "loopback"],
    ["0.0.0.0/0", "127.0.0.1", undefined],
    ["0.0.0.0/0", "::1", "loopback"],
    ["::/0", "::1", undefined],
    ["::/0", "127.0.0.1", "loopback"],
    ["::/0", "::ffff:127.0.0.1", "loopback"],
    ["0.0.0.0/0", "not an address", "invalid"],
  ])("with %s says of %s: %p", (network, address, expected) => {
    expect(blockedRange(address, networks(network))).toBe(expected as never);
  });

  test("opens what any of its ranges holds", () => {
    const allowed = networks("10.0.0.0/8", "fd00::/8", "127.0.0.1");
    expect(["10.0.0.1", "fd00::1", "127.0.0.1", "127.0.0.2"].map((each) => blockedRange(each, allowed))).toEqual([
      undefined,
      undefined,
      undefined,
      "loopback",
    ]);
  });

  test.each([
    ...["", " ", "10", "10/8", "10.0.0/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/8/8", "10.0.0.0/x"],
    ...["10.0.0.0/1e1", "10.0.0.0 /8", " 10.0.0.0/8", "10.0.0.0/8 ", "256.0.0.0/8", "example.com", "example.com/8"],
    ...["fd00::/129", "fd00::/", "fd00::/-1", "[fd00::]/8", "fd00:/8", "localhost", "*", "any"],
    // Where other programs read octal, decimal or hex: better refused than opened by mistake.
    ...["010.0.0.0/8", "0x0a.0.0.0/8", "167772160/8", "127.1", "0177.0.0.1"],
    // Never matches, since addresses are unwrapped first: better refused than without effect.
    ...["::ffff:10.0.0.0/104", "::ffff:10.0.0.1"],
  ])("takes %p for no network", (text) => {
    expect(parseNetwork(text) === undefined).toBe(true); // a failure would print all of ipaddr.js
  });
});

describe("an address of IPv6 with one of IPv4 inside", () => {
  /** The form, what opens it, how it carries 8.8.8.8, and how 10.0.0.1. */
  test.each([
    ["NAT64 with a local prefix of 96 bits", "64:ff9b:1:1::/96", "64:ff9b:1:1::808:808", "64:ff9b:1:1::a00:1"],
    ["NAT64 with a local prefix of 64 bits", "64:ff9b:1::/64", "64:ff9b:1:0:8:808:800:0", "64:ff9b:1:0:a:0:100:0"],
    ["NAT64 with a local prefix of 56 bits", "64:ff9b:1::/56", "64:ff9b:1:8:8:808::", "64:ff9b:1:a:0:1::"],
    ["NAT64 with a local prefix of 48 bits", "64:ff9b:1::/48", "64:ff9b:1:808:8:800::", "64:ff9b:1:a00:0:100::"],
    ["IPv4-translated", "::ffff:0:0:0/96", "::ffff:0:808:808", "::ffff:0:a00:1"],
    ["IPv4-compatible", "::/96", "::808:808", "::a00:1"],
    ["6to4", "2002::/16", "2002:808:808::1", "2002:a00:1::1"],
    ["Teredo's server", "2001::/32", "2001:0:808:808::f7f7:f7f7", "2001:0:a00:1::f7f7:f7f7"],
    ["Teredo's client", "2001::/32", "2001:0:808:808::f7f7:f7f7", "2001:0:808:808::f5ff:fffe"],
    ["ISATAP, link-local", "fe80::/10", "fe80::5efe:808:808", "fe80::5efe:a00:1"],
    ["ISATAP, unique", "fd00::/8", "fd00::200:5efe:808:808", "fd00::200:5efe:a00:1"],
  ])("in the form of %s needs both allowed", (_, form, carriesPublic, carriesPrivate) => {
    expect(blockedRange(carriesPublic, [])).toBeString();
    expect(blockedRange(carriesPublic, networks(form))).toBeUndefined();
    expect(blockedRange(carriesPrivate, networks("10.0.0.0/8"))).toBeString();
    expect(blockedRange(carriesPrivate, networks(form))).toBe("private");
    expect(blockedRange(carriesPrivate, networks(form, "10.0.0.0/8"))).toBeUndefined();
    expect(blockedRange(carriesPublic, networks(form), networks("8.8.8.8"))).toBe("denied");
  });

  test("is private as ISATAP in any network, also a public one", () => {
    expect(blockedRange("2606:4700::5efe:a00:1", [])).toBe("private");
    expect(blockedRange("2606:4700::200:5efe:a00:1", [])).toBe("private");
    expect(blockedRange("2606:4700::100:5efe:a00:1", [])).toBeUndefined(); // an interface like others
  });

  test.each([
    ["64:ff9b:1::/48", "64:ff9b:1:808:8:800:a00:1"],
    ["64:ff9b:1::/48", "64:ff9b:1:808:108:800::"],
    ["64:ff9b:1::/64", "64:ff9b:1:0:8:808:800:1"],
    ["64:ff9b::/32", "64:ff9b:1::808:808"],
    ["::/0", "64:ff9b:1::808:808"],
  ])("is blocked with a local prefix when %s does not tell where: %s", (form, address) => {
    expect(blockedRange(address, networks(form))).toBe("rfc6052");
  });

  test("is judged by the longest range that opens a local prefix", () => {
    const allowed = networks("64:ff9b:1::/48", "64:ff9b:1:1::/96");
    expect(blockedRange("64:ff9b:1:1::808:808", allowed)).toBeUndefined();
    expect(blockedRange("64:ff9b:1:1::a00:1", allowed)).toBe("private");
  });
});

describe("the deny-list", () => {
  test.each([
    ["a public address", "8.8.8.8", "8.8.8.0/24", ""],
    ["a public address of IPv6", "2606:4700::1", "2606:4700::/32", ""],
    ["a private one that is allowed", "10.1.2.3", "10.1.0.0/16", "10.0.0.0/8"],
    ["what is allowed word for word", "10.1.2.3", "10.1.2.3", "10.1.2.3"],
    ["a mapped one", "::ffff:8.8.8.8", "8.8.8.8", ""],
    ["one inside NAT64", "64:ff9b::808:808", "8.8.8.8", "64:ff9b::/96"],
    ["the form of NAT64", "64:ff9b::808:808", "64:ff9b::/96", "8.8.8.8"],
    ["one inside 6to4", "2002:808:808::", "8.8.8.8", "2002::/16"],
  ])("wins over all else: %s, %s, with %s", (_, address, denied, allowed) => {
    expect(blockedRange(address, allowed === "" ? [] : networks(allowed), networks(denied))).toBe("denied");
  });

  test("leaves the neighbors alone", () => {
    expect(blockedRange("8.8.9.8", [], networks("8.8.8.0/24"))).toBeUndefined();
    expect(blockedRange("10.2.0.1", networks("10.0.0.0/8"), networks("10.1.0.0/16"))).toBeUndefined();
    expect(blockedRange("127.0.0.1", [], networks("8.8.8.0/24"))).toBe("loopback");
  });
});

describe("a literal in a URL", () => {
  test.each([
    ...["127.0.0.1", "127.0.0.1.", "127.1", "127.0.1", "2130706433", "017700000001", "0x7f000001", "0x7F.1"],
    ...["0177.0.0.1", "0x7f.0x0.0x0.0x1", "127.0.0.0x1", "00000177.0.0.1", "%31%32%37.0.0.1", "127%2e0.0.1"],
    ...[
      "１２７.０.０.１",
      "127。0。0。1",
      "①②⑦.⓪.⓪.①",
      "127.0.0.1:80",
      "127.0.0.1:",
      "127.0.0.1#@1.1.1.1",
      "127.0.0.1?@1.1.1.1",
    ],
    ...[
      "127.0.0.1\\@1.1.1.1",
      "\t127.0.\n0.1",
      "[::1]",
      "[0:0:0:0:0:0:0:1]",
      "[0000:0000:0000:0000:0000:0000:0000:0001]",
    ],
    ...["[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::FFFF:7F00:0001]", "[0:0:0:0:0:ffff:127.0.0.1]", "[::1]:80"],
  ])("as http://%s/ is loopback", (spelling) => {
    const literal = literalOf(new URL(`http://${spelling}/`).hostname);
    expect(blockedRange(literal ?? "a name", [])).toBe("loopback");
  });

  test.each([
    ["169.254.169.254", "linkLocal"],
    ["2852039166", "linkLocal"],
    ["0xA9FEA9FE", "linkLocal"],
    ["0251.0376.0251.0376", "linkLocal"],
    ["[::ffff:a9fe:a9fe]", "linkLocal"],
    ["0", "unspecified"],
    ["0.0.0.0", "unspecified"],
    ["0x0", "unspecified"],
    ["[::]", "unspecified"],
    ["10.1", "private"],
    ["0xa.1", "private"],
    ["192.168.257", "private"],
    ["4294967295", "broadcast"],
    ["[::127.0.0.1]", "reserved"],
    ["[64:ff9b::7f00:1]", "loopback"],
    ["[64:ff9b::127.0.0.1]", "loopback"],
    ["[2002:7f00:1::]", "6to4"],
    ["[fd00:ec2::254]", "uniqueLocal"],
    ["[FE80::1]", "linkLocal"],
  ])("as http://%s/ is %s", (spelling, range) => {
    const literal = literalOf(new URL(`http://${spelling}/`).hostname);
    expect(blockedRange(literal ?? "a name", [])).toBe(range);
  });

  test.each([
    ["1.1.1.1", "1.1.1.1"],
    ["0x01010101", "1.1.1.1"],
    ["[2606:4700::1111]", "2606:4700::1111"],
  ])("as http://%s/ is the public %s", (spelling, expected) => {
    const literal = literalOf(new URL(`http://${spelling}/`).hostname) as string;
    expect(literal).toBe(expected);
    expect(blockedRange(literal, [])).toBeUndefined();
  });

  test.each(["localhost", "localhost.", "127.0.0.1.nip.io", "*", "a.0x7f", "1.1.1.1.example", "xn--1-0ga", "_", "-"])(
    "is not %s: that is a name, which the resolver's answer judges",
    (name) => {
      const url = URL.parse(`http://${name}/`); // null: no URL at all, and refused by the contract
      expect(url === null ? undefined : literalOf(url.hostname)).toBeUndefined();
    },
  );
});
