/** Names as the machine itself has them: `/etc/hosts`, `/etc/resolv.conf` and a name server at port 53, in namespaces of a test's own. */
import { expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const HOSTS = "127.0.0.1 localhost\n127.0.0.1 hosts.example\n10.0.0.1 inside.example\n";
const RESOLV_CONF = "nameserver 127.0.0.1\nsearch search.example\noptions ndots:1\n";
const PROGRAM = join(import.meta.dir, "../support/names-program.ts");

/** Namespaces of network and mounts; of users too, so that it need not be root. */
const inNamespaces = (script: string, ...args: string[]) => ["unshare", "-rnm", "sh", "-ec", script, "sh", ...args];
const canUnshare =
  Bun.which("unshare") !== null &&
  Bun.which("ip") !== null &&
  Bun.spawnSync(inNamespaces("ip link set lo up; mount --bind /etc/hosts /etc/hosts")).success;
if (!canUnshare)
  console.warn("test/chaos/names.ts does not run: this machine lets us have no namespaces (unshare -rnm, ip)");

test.skipIf(!canUnshare)(
  "names are found by the machine's hosts file, search domains and name server, and dead ones hold up no other",
  async () => {
    const directory = mkdtempSync(join(tmpdir(), "fluxhook-names-"));
    const [hosts, resolvConf] = [join(directory, "hosts"), join(directory, "resolv.conf")];
    writeFileSync(hosts, HOSTS);
    writeFileSync(resolvConf, RESOLV_CONF);
    const script =
      'ip link set lo up; mount --bind "$1" /etc/hosts; mount --bind "$2" /etc/resolv.conf; exec "$3" "$4"';
    const child = Bun.spawn(inNamespaces(script, hosts, resolvConf, process.execPath, PROGRAM), {
      stdio: ["ignore", "pipe", "pipe"],
      timeout: 40_000,
      killSignal: "SIGKILL",
    });
    const [out, errors] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
    await child.exited;
    rmSync(directory, { recursive: true });
    expect(out === "" ? errors : JSON.parse(out)).toEqual({
      "hosts.example": 204,
      "web.example": 204,
      short: 204,
      "nowhere.example": "dns",
      "inside.example": "dns",
      asked: ["A inside.example", "A inside.example.search.example"],
      live: [204],
      slowestMs: expect.any(Number),
      dead: ["dns"],
      "with nobody at port 53": "resolver",
    });
    expect(JSON.parse(out).slowestMs).toBeLessThan(3_000); // one silent name alone takes four seconds
  },
  50_000,
);
