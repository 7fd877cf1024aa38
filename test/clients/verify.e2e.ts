/**
 * `fluxhook-verify` as npm packs it, on the runtimes that are no dependency of ours: Deno, and `workerd`, which runs Cloudflare's
 * Workers. Both come from npm; one that cannot be installed is listed as not run, with the reason in the title.
 */
import { expect, test } from "bun:test";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { signStandard } from "../../src/delivery/signature.ts";
import { eventually } from "../support/stack.ts";

const ROOT = join(import.meta.dir, "../..");
const folder = join(ROOT, "node_modules/.cache/clients/verify");
const VERSIONS = ["deno@2.9.6", "workerd@1.20261117.1"];
const LIMIT_MS = 120_000; // 2 min: a registry that takes longer does not answer
const SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const BODY = JSON.stringify({
  id: "1",
  event: "file.created",
  timestamp: "2026-11-23T08:59:50.851Z",
  data: { ü: "😀" },
});

const missing = await install();
const title = (text: string) => (missing === undefined ? text : `${text}: not run, ${missing}`);

/** Returns why it failed; undefined if it did not. */
async function install(): Promise<string | undefined> {
  if (process.env.FLUXHOOK_NO_INSTALL === "1") return "FLUXHOOK_NO_INSTALL=1 is set";
  rmSync(join(folder, "node_modules/fluxhook-verify"), { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "package.json"), '{ "private": true, "type": "module" }');
  const { version } = await Bun.file(join(ROOT, "packages/fluxhook-verify/package.json")).json();
  const pack = ["npm", "pack", join(ROOT, "packages/fluxhook-verify"), "--pack-destination", folder];
  const packed = `./fluxhook-verify-${version}.tgz`;
  for (const command of [pack, ["npm", "install", "--no-save", "--no-audit", "--no-fund", packed, ...VERSIONS]]) {
    const child = Bun.spawn(command, { cwd: folder, stdio: ["ignore", "pipe", "pipe"], timeout: LIMIT_MS });
    const [, errors] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
    if ((await child.exited) !== 0) return errors.trim().split("\n")[0] || `${command[1]} took too long`;
  }
  return undefined;
}

function sign(): Record<string, string> {
  const time = Math.floor(Date.now() / 1000);
  const signature = signStandard("1", time, BODY, [SECRET]);
  return { "webhook-id": "1", "webhook-timestamp": String(time), "webhook-signature": signature };
}

test.skipIf(missing !== undefined)(title("Deno verifies an event, and refuses another body"), async () => {
  writeFileSync(
    join(folder, "deno.mjs"),
    `import { verify } from "fluxhook-verify";
const [body, headers, secret] = ${JSON.stringify([BODY, sign(), SECRET])};
console.log(verify(body, new Headers(headers), secret).payload.event, verify(body + " ", headers, secret).reason);`,
  );
  const child = Bun.spawn([join(folder, "node_modules/.bin/deno"), "run", "--no-remote", "deno.mjs"], {
    cwd: folder,
    stdio: ["ignore", "pipe", "inherit"],
  });
  expect(await new Response(child.stdout).text()).toBe("file.created wrong_signature\n");
});

test.skipIf(missing !== undefined)(title("workerd verifies a request, and refuses another body"), async () => {
  const probe = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  const { port } = probe;
  probe.stop();
  writeFileSync(join(folder, "worker.mjs"), WORKER);
  writeFileSync(join(folder, "workerd.capnp"), describeWorker(port));
  const child = Bun.spawn([join(folder, "node_modules/.bin/workerd"), "serve", "workerd.capnp"], {
    cwd: folder,
    stdio: ["ignore", "inherit", "inherit"],
  });
  try {
    const post = (body: string) => fetch(`http://127.0.0.1:${port}/`, { method: "POST", headers: sign(), body });
    const read = async (body: string) => {
      const response = await post(body);
      return [response.status, await response.text()];
    };
    expect(
      await eventually(
        () => read(BODY).catch(() => []),
        ({ length }) => length > 0,
      ),
    ).toEqual([200, "file.created"]);
    expect(await read(`${BODY} `)).toEqual([401, "wrong_signature"]);
  } finally {
    child.kill();
    await child.exited;
  }
});

const WORKER = `import { verify } from "fluxhook-verify";
export default {
  async fetch(request, env) {
    const result = verify(await request.arrayBuffer(), request.headers, env.SECRET);
    return result.ok ? new Response(result.payload.event) : new Response(result.reason, { status: 401 });
  },
};
`;

/** `workerd` has no package resolution: a bundler, or as here its configuration, says where modules are. */
function describeWorker(port: number): string {
  const files = [...new Bun.Glob("**/*.js").scanSync(join(folder, "node_modules/fluxhook-verify/dist"))];
  const modules = files.map((file) => {
    const name = file === "verify.js" ? "fluxhook-verify" : file;
    return `(name = "${name}", esModule = embed "node_modules/fluxhook-verify/dist/${file}")`;
  });
  return `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = .main)],
  sockets = [(name = "http", address = "127.0.0.1:${port}", http = (), service = "main")],
);
const main :Workerd.Worker = (
  modules = [(name = "worker.mjs", esModule = embed "worker.mjs"), ${modules.join(", ")}],
  bindings = [(name = "SECRET", text = "${SECRET}")],
  compatibilityDate = "2026-11-01",
);
`;
}
