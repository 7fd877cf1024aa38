/**
 * Many hosts on loopback: addresses of 127.0.0.0/8, and certificates for them by an authority made for the run.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** Addresses with the same first three bytes; they share a certificate. */
export const HOSTS_PER_NET = 250;

/** The `index`-th host's address, 0-based. */
export const hostOf = (index: number): string =>
  `127.0.${Math.floor(index / HOSTS_PER_NET)}.${(index % HOSTS_PER_NET) + 1}`;

/** The `index`-th host's name, in {@link Certificates}. */
export const nameOf = (index: number): string => `host-${index}.bench.test`;

export interface Certificates {
  /** File with the authority's certificate, PEM. */
  readonly caFile: string;
  /** Files with key and certificate, PEM: one for each {@link HOSTS_PER_NET} hosts. */
  readonly files: readonly string[];
}

const KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];

/**
 * Make certificates for so many hosts, by address and by name, with openssl (3 or newer).
 *
 * @param directory  where the files go
 * @throws  when there is no openssl, or it fails
 */
export function makeCertificates(directory: string, hosts: number): Certificates {
  const caFile = join(directory, "ca.pem");
  const caKey = join(directory, "ca.key");
  openssl(["req", "-x509", ...KEY, "-keyout", caKey, "-out", caFile, "-subj", "/CN=Fluxhook bench CA"]);
  const files = Array.from({ length: Math.ceil(hosts / HOSTS_PER_NET) }, (_, net) => {
    const addresses = Array.from({ length: HOSTS_PER_NET }, (_, index) => `IP:${hostOf(net * HOSTS_PER_NET + index)}`);
    const names = `subjectAltName=DNS:*.bench.test,${addresses.join(",")}`;
    const file = join(directory, `net-${net}.pem`);
    const [key, crt] = [`${file}.key`, `${file}.crt`];
    const by = ["-CA", caFile, "-CAkey", caKey];
    openssl(["req", "-x509", ...KEY, "-keyout", key, "-out", crt, "-subj", "/CN=bench.test", "-addext", names, ...by]);
    writeFileSync(file, readFileSync(key, "utf8") + readFileSync(crt, "utf8"));
    return file;
  });
  return { caFile, files };
}

function openssl(args: readonly string[]): void {
  const { exitCode, stderr } = Bun.spawnSync(["openssl", ...args], { stderr: "pipe" });
  if (exitCode !== 0 || !existsSync(args[args.indexOf("-out") + 1] as string)) {
    throw new Error(`openssl ${args[0]} failed: ${stderr.toString().slice(-500)}`);
  }
}
