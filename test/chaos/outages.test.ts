/**
 * What holds when workers crash and Valkey goes away. Each test has its own Valkey and its own worker processes, and all of
 * them run at the same time, since most of each is waiting for locks of 15 s to expire: those that wait longest begin.
 */
import "./valkey.ts";
import "./workers.ts";
