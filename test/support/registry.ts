/**
 * An npm registry on loopback that serves what is installed here: `npm install` works without a network, and gets the
 * versions that the lock file pins.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";

interface Manifest {
  readonly name: string;
  readonly version: string;
}

export interface Registry {
  readonly url: string;
  stop(): Promise<void>;
}

const NODE_MODULES = join(import.meta.dir, "../../node_modules");

/** Start the registry. Packages that are not installed here, such as those for other systems, are 404. */
export function startRegistry(): Registry {
  const folders = new Map<string, string>(); // by name@version
  for (const folder of findPackages(NODE_MODULES)) {
    const { name, version } = readManifest(folder);
    folders.set(`${name}@${version}`, folder);
  }
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch({ url }): Response {
      const { origin, pathname } = new URL(url);
      const path = decodeURIComponent(pathname).slice(1);
      const folder = folders.get(path.replace(/\.tgz$/, ""));
      if (folder !== undefined) return new Response(pack(folder));
      const manifests = [...folders.values()].map(readManifest).filter(({ name }) => name === path);
      if (manifests.length === 0) return new Response("{}", { status: 404 });
      const versions = manifests.map((manifest) => [
        manifest.version,
        { ...manifest, dist: { tarball: `${origin}/${encodeURIComponent(`${path}@${manifest.version}`)}.tgz` } },
      ]);
      const latest = manifests
        .map(({ version }) => version)
        .sort(Bun.semver.order)
        .at(-1);
      return Response.json({ name: path, "dist-tags": { latest }, versions: Object.fromEntries(versions) });
    },
  });
  return { url: server.url.href, stop: () => server.stop(true) };
}

function readManifest(folder: string): Manifest {
  return JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
}

/** Every package in a `node_modules`, and in those of the packages. */
function findPackages(directory: string): string[] {
  const names = readdirSync(directory, { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && !entry.name.startsWith("."))
    .map(({ name }) => join(directory, name));
  const folders = names.flatMap((name) => (basename(name).startsWith("@") ? findPackages(name) : name));
  return folders.flatMap((folder) => {
    const nested = join(folder, "node_modules");
    const found = existsSync(nested) ? findPackages(nested) : [];
    return existsSync(join(folder, "package.json")) ? [folder, ...found] : found;
  });
}

/** A tarball as npm takes it: everything is in one folder, whatever its name. */
function pack(folder: string): ReadableStream<Uint8Array> {
  const command = ["tar", "-czf", "-", "--exclude", "node_modules", "-C", dirname(folder), basename(folder)];
  return Bun.spawn(command, { stdio: ["ignore", "pipe", "ignore"] }).stdout;
}
