/**
 * URLs of endpoints.
 */

const MAX_URLS = 10_000; // cached; about 300 bytes each
const urls = new Map<string, URL>(); // oldest first

/** Parse a URL, with a cache: most events go to a few thousand endpoints, and others cache what they derive by URL object. */
export function parseUrl(text: string): URL | undefined {
  const known = urls.get(text);
  if (known !== undefined || !URL.canParse(text)) return known;
  const url = new URL(text);
  urls.set(text, url);
  if (urls.size > MAX_URLS) urls.delete(urls.keys().next().value as string);
  return url;
}

/** Whether text is a URL that an endpoint may have: http or https, without user name and password. */
export function isEndpointUrl(text: string): boolean {
  const url = parseUrl(text);
  if (url === undefined) return false;
  return (url.protocol === "http:" || url.protocol === "https:") && url.username === "" && url.password === "";
}
