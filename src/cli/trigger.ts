/**
 * `fluxhook trigger`: enqueue a sample of an event type.
 */
import type { Command } from "commander";
import { EVENT_SAMPLES } from "../events.ts";
import { act, CommandError, type Context } from "./context.ts";
import { checkEventType, readEventTypes } from "./input.ts";
import { addSendOptions, requireTarget, type SendOptions, sendEvent } from "./send.ts";

const SAMPLES: Readonly<Record<string, object>> = EVENT_SAMPLES;

export function addTrigger(program: Command, context: Context): void {
  const command = program
    .command("trigger")
    .description("enqueue a sample of an event type")
    .argument("<event>", "the event type");
  addSendOptions(command, "data in place of the sample's: a JSON object, @file, or - for stdin")
    .addHelpText(
      "after",
      `
The samples are those of docs/events.md. An event type of your own, in WEBHOOK_EVENTS, has none: give its --data.

Examples:
  $ fluxhook trigger file.created --url https://example.com/webhooks --user usr_42 --secret-env SECRET
  $ fluxhook trigger org.userAdded --url http://127.0.0.1:8080 --user usr_42 --secret-file secret.txt --wait
  $ fluxhook trigger invoice.paid --url "$URL" --user usr_42 --secret-env SECRET --data '{"invoiceId":"inv_7"}'`,
    )
    .action(
      act<SendOptions, [string]>(context, async (terminal, options, event) => {
        checkEventType(event, readEventTypes(context.env), "the event");
        requireTarget(options, context.env);
        const sample = Object.hasOwn(SAMPLES, event) ? SAMPLES[event] : undefined;
        if (sample === undefined && options.data === undefined) {
          throw new CommandError("usage", `${event} has no sample: it is an event type of your own. Give its --data.`);
        }
        return await sendEvent(terminal, context.env, event, options, sample ?? {});
      }),
    );
}
