/**
 * How long a test may take: loaded before each file. Waiting is for signals, so that patience costs nothing when all is
 * well, and a busy machine is no failure. Tests that are about time say so themselves.
 */
import { setDefaultTimeout } from "bun:test";

setDefaultTimeout(25_000);
