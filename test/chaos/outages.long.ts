/**
 * What holds when workers crash and Valkey goes away. Each test has its own Valkey and its own worker processes, and all of
 * them run at the same time, since most of each is waiting for locks of 15 s to expire: those that wait longest begin.
 */
import { afterAll, expect } from "bun:test";
import "./deaths.ts";
import "./poison.ts";
import "./names.ts";
import "./egress-proxy.ts";
import "./older-clients.ts";
import "./refusals.ts";
import "./valkey.ts";
import "./workers.ts";

/** What Node would print: into the output of a backend, whose client is in this process. */
const warnings: string[] = [];
process.on("warning", ({ message }) => warnings.push(message));
afterAll(() => expect(warnings).toEqual([]));
