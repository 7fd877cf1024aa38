/**
 * The system's Chromium, driven by playwright-core, and what it must not do: ask another host, or complain.
 */
import { type Browser, type BrowserContextOptions, chromium, type Page } from "playwright-core";
import { findChromium } from "../../scripts/install-chromium.mjs";

const ARGS = [
  ...["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"],
  ...["--disable-background-networking", "--disable-component-update", "--disable-sync"],
  ...(process.getuid?.() === 0 ? ["--no-sandbox"] : []), // as root Chromium does not start with one
];
const WAIT_MS = 15 * 1000; // 15 s, for what usually takes some milliseconds: CI machines may be busy

/** Start the browser. Close it when done. */
export async function startChromium(): Promise<Browser> {
  const executablePath = findChromium();
  if (executablePath === undefined) throw new Error("no Chromium on this machine: npm run test:browser installs one");
  return await chromium.launch({ executablePath, args: ARGS });
}

export interface WatchedPage {
  readonly page: Page;
  /** Requests to other hosts, errors on the console, uncaught exceptions, answers of 400 and above, in words. */
  readonly complaints: readonly string[];
  close(): Promise<void>;
}

/** A page of a new, empty profile, logged in. */
export async function openPage(
  browser: Browser,
  site: { origin: string; user: string; password: string },
  options: BrowserContextOptions = {},
): Promise<WatchedPage> {
  const httpCredentials = { username: site.user, password: site.password, origin: site.origin };
  const context = await browser.newContext({ baseURL: site.origin, httpCredentials, ...options });
  context.setDefaultTimeout(WAIT_MS);
  const complaints: string[] = [];
  context.on("request", (request) => {
    const { protocol, origin } = new URL(request.url());
    if (protocol !== "data:" && origin !== site.origin) complaints.push(`asked ${request.url()}`);
  });
  context.on("response", (response) => {
    if (response.status() >= 400) complaints.push(`${response.status()} from ${response.url()}`);
  });
  context.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(`console: ${message.text()}`);
  });
  context.on("weberror", (error) => complaints.push(`exception: ${error.error().message}`));
  return { page: await context.newPage(), complaints, close: () => context.close() };
}
