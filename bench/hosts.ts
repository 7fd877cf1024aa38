/**
 * Many hosts on loopback: addresses of 127.0.0.0/8, and certificates for them, see certificates/make.sh.
 */
import { join } from "node:path";

/** Addresses with the same first three bytes; they share a certificate. */
export const HOSTS_PER_NET = 250;

/** There are certificates for so many. */
export const MAX_HOSTS = 4 * HOSTS_PER_NET;

/** The `index`-th host's address, 0-based. */
export const hostOf = (index: number): string =>
  `127.0.${Math.floor(index / HOSTS_PER_NET)}.${(index % HOSTS_PER_NET) + 1}`;

/** The `index`-th host's name; every certificate is for all names. */
export const nameOf = (index: number): string => `host-${index}.bench.test`;

/** File with the authority's certificate, PEM. */
export const CA_FILE = join(import.meta.dir, "certificates/ca.pem");

/** Files with key and certificate, PEM: one for each {@link HOSTS_PER_NET} of so many hosts. */
export function certificateFiles(hosts: number): string[] {
  return Array.from({ length: Math.ceil(hosts / HOSTS_PER_NET) }, (_, net) =>
    join(import.meta.dir, `certificates/net-${net}.pem`),
  );
}
