/**
 * `fluxhook endpoints`: register, change and look after users' endpoints.
 */
import type { Command } from "commander";
import type { Context } from "./context.ts";
import { addCreate, addDelete, addRotate, addStates, addUpdate } from "./endpoints-change.ts";
import { addEnable, addReplay, addTest } from "./endpoints-deliver.ts";
import { addApply, addExport, addReindex } from "./endpoints-file.ts";
import { addRehome } from "./endpoints-rehome.ts";
import { addEndpointAttempts, addExplain, addList, addMissed, addShow } from "./endpoints-show.ts";

export function addEndpoints(program: Command, context: Context): void {
  const endpoints = program
    .command("endpoints")
    .description("register, change and look after users' endpoints")
    .addHelpText(
      "after",
      `
Secrets are printed once, when they are made, by create and rotate. URLs are printed without their queries; export has them.

Examples:
  $ fluxhook endpoints create usr_42 --id main --url https://hooks.example.com/in --events 'file.*,share.linked'
  $ fluxhook endpoints list --state failing
  $ fluxhook endpoints rotate usr_42 main --grace 1h
  $ fluxhook endpoints enable usr_42 main --replay 2d
  $ fluxhook endpoints export > endpoints.jsonl
  $ fluxhook endpoints apply endpoints.jsonl --dry-run`,
    );
  for (const add of [
    ...[addList, addShow, addCreate, addUpdate, addRotate, addStates, addEnable, addTest],
    ...[addMissed, addReplay, addDelete, addExplain, addEndpointAttempts, addExport, addApply, addReindex],
    addRehome,
  ]) {
    add(endpoints, context);
  }
}
