/**
 * `fluxhook key` and `fluxhook seal`: sealed secrets.
 */
import type { Command } from "commander";
import { createKey, seal } from "../delivery/seal.ts";
import { plainSecretProblem } from "../delivery/secret.ts";
import { act, CommandError, type Context, EXIT, type JsonOption, readConfig } from "./context.ts";
import { addSecretOptions, readSecrets, readUser, requireOptions, type SecretOptions } from "./input.ts";

export function addKey(program: Command, context: Context): void {
  program
    .command("key")
    .description("print a new key for WEBHOOK_SECRET_KEYS")
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      `
Examples:
  $ fluxhook key
  $ WEBHOOK_SECRET_KEYS="$(fluxhook key),$WEBHOOK_SECRET_KEYS"   # new key first`,
    )
    .action(
      act<JsonOption>(context, (terminal) => {
        const key = createKey();
        terminal.print(key);
        terminal.printJson({ key });
        return EXIT.ok;
      }),
    );
}

interface SealOptions extends JsonOption, SecretOptions {
  readonly user: string;
}

export function addSeal(program: Command, context: Context): void {
  const command = program
    .command("seal")
    .description("seal a user's secret with the first of WEBHOOK_SECRET_KEYS")
    .option("--user <id>", "the user whose events it signs; the sealed secret works for no other");
  addSecretOptions(command);
  command
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      `
Reads the secret from stdin by default.

Examples:
  $ fluxhook seal --user usr_42 < secret.txt
  $ fluxhook seal --user usr_42 --secret-env CUSTOMER_SECRET`,
    )
    .action(
      act<SealOptions>(context, (terminal, options) => {
        requireOptions({ "--user": options.user });
        const userId = readUser(options.user);
        const [key] = readConfig(context.env, terminal).secretKeys;
        if (key === undefined) {
          throw new CommandError(
            "settings",
            "expected WEBHOOK_SECRET_KEYS to be set; fluxhook key prints a key for it",
          );
        }
        const given = readSecrets(options, context.env);
        const secrets = given.length > 0 ? given : readSecrets({ secretFile: ["-"] }, context.env);
        const problems = secrets.flatMap((secret, index) => {
          const problem = plainSecretProblem(secret);
          return problem === undefined
            ? []
            : `${secrets.length === 1 ? "the secret" : `secret ${index + 1}`}: ${problem}`;
        });
        if (problems.length > 0) throw new CommandError("usage", problems.join("\n"));
        const sealed = secrets.map((secret) => seal(secret, key, userId));
        for (const text of sealed) terminal.print(text);
        terminal.printJson({ user: userId, sealed });
        return EXIT.ok;
      }),
    );
}
