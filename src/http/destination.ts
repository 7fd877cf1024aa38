/**
 * Which URLs may be delivered to, as far as the URL itself tells. What its name resolves to is judged with each connection.
 */

/** Ports from the first to the last, both included. */
export type PortRange = readonly [first: number, last: number];

/** Read a port or a range of ports, as in `443` or `8000-8999`; undefined when it is neither. */
export function parsePortRange(text: string): PortRange | undefined {
  const [, first, last = first] = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(text) ?? [];
  const range: PortRange = [Number(first), Number(last)];
  return range[0] >= 1 && range[0] <= range[1] && range[1] <= 65_535 ? range : undefined;
}
