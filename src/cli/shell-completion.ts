/**
 * `fluxhook completion`: shell completion scripts, generated from the command tree.
 */
import type { Command } from "commander";
import { act, CommandError, type Context, EXIT, type JsonOption } from "./context.ts";
import { readEventTypes } from "./input.ts";

const SHELLS = ["bash", "zsh", "fish"] as const;
const PATHS = ["--secret-file", "--header-file", "--headers", "--body", "--save", "--data"];

export function addCompletion(program: Command, context: Context): void {
  program
    .command("completion")
    .description("print a completion script for a shell")
    .argument("<shell>", SHELLS.join(", "))
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      `
Examples:
  $ source <(fluxhook completion bash)                                       # in ~/.bashrc
  $ fluxhook completion zsh > "\${fpath[1]}/_fluxhook"
  $ fluxhook completion fish > ~/.config/fish/completions/fluxhook.fish`,
    )
    .action(
      act<JsonOption, [string]>(context, (terminal, _options, shell) => {
        const tree = readTree(program, [...readEventTypes(context.env)]);
        if (shell !== "bash" && shell !== "zsh" && shell !== "fish") {
          throw new CommandError("usage", `expected the shell to be one of ${SHELLS.join(", ")}, got "${shell}"`);
        }
        const script = { bash: writeBash, zsh: writeZsh, fish: writeFish }[shell](tree);
        terminal.printJson({ shell, script });
        terminal.print(script.trimEnd());
        return EXIT.ok;
      }),
    );
}

interface Entry {
  readonly name: string;
  readonly description: string;
  /** Possible values: words, a path, or undefined when unknown. */
  readonly values?: readonly string[] | "path";
  readonly takesValue?: boolean;
}

interface Branch extends Entry {
  readonly options: readonly Entry[];
  readonly arguments: readonly string[] | "path";
}

function readTree(program: Command, events: readonly string[]): Branch[] {
  return program.commands.map((command) => ({
    name: command.name(),
    description: command.description(),
    arguments: argumentsOf(command, events),
    options: optionsOf(command).map((option) => {
      const name = option.long as string;
      const values = name === "--event" ? events : PATHS.includes(name) ? "path" : [];
      return { name, description: option.description, values, takesValue: option.required };
    }),
  }));
}

function argumentsOf(command: Command, events: readonly string[]): Branch["arguments"] {
  if (command.commands.length > 0) return command.commands.map((subcommand) => subcommand.name());
  return { completion: SHELLS, trigger: events, verify: "path" as const }[command.name()] ?? [];
}

/** A command's options, each once: with subcommands, those of all of them. */
function optionsOf(command: Command) {
  const all = [command, ...command.commands].flatMap((one) => one.createHelp().visibleOptions(one));
  return all.filter(({ long }, index) => all.findIndex((other) => other.long === long) === index);
}

function writeBash(tree: readonly Branch[]): string {
  const events = tree.find(({ name }) => name === "trigger")?.arguments as readonly string[];
  const cases = tree.map(
    ({ name, options, arguments: words }) =>
      `    ${name}) words="${options.map((option) => option.name).join(" ")}${words === "path" ? "" : ` ${words.join(" ")}`}" ;;`,
  );
  return `# bash completion of fluxhook
_fluxhook() {
  local current="\${COMP_WORDS[COMP_CWORD]}" previous="\${COMP_WORDS[COMP_CWORD-1]}" words
  COMPREPLY=()
  case "$previous" in
    --event) COMPREPLY=($(compgen -W "${events.join(" ")}" -- "$current")); return ;;
    ${PATHS.join("|")}) COMPREPLY=($(compgen -f -- "$current")); return ;;
  esac
  case "\${COMP_WORDS[1]}" in
${cases.join("\n")}
    *) words="${tree.map(({ name }) => name).join(" ")} help --help --version" ;;
  esac
  [ "$COMP_CWORD" -eq 1 ] && words="${tree.map(({ name }) => name).join(" ")} help --help --version"
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -o default -F _fluxhook fluxhook
`;
}

function writeZsh(tree: readonly Branch[]): string {
  const quote = (text: string) => `'${text.replaceAll("'", "'\\''")}'`;
  const plain = (text: string) => text.replaceAll(/[[\]:\\]/g, "\\$&");
  const action = (values: Entry["values"]) =>
    values === "path" ? ":_files" : values?.length ? `:(${values.join(" ")})` : ": ";
  const optionOf = ({ name, description, values, takesValue }: Entry) =>
    quote(`*${name}[${plain(description)}]${takesValue ? `:value${action(values)}` : ""}`);
  const cases = tree.map(({ name, options, arguments: words }) => {
    const rest =
      words === "path" ? [quote("*:file:_files")] : words.length > 0 ? [quote(`1:argument:(${words.join(" ")})`)] : [];
    return `    ${name})\n      _arguments ${[...options.map(optionOf), ...rest].join(" \\\n        ")} ;;`;
  });
  return `#compdef fluxhook
_fluxhook() {
  local -a commands=(
${tree.map(({ name, description }) => `    ${quote(`${name}:${plain(description)}`)}`).join("\n")}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  local command="\${words[2]}"
  shift words
  (( CURRENT-- ))
  case "$command" in
${cases.join("\n")}
  esac
}
if [ "$funcstack[1]" = "_fluxhook" ]; then _fluxhook "$@"; else compdef _fluxhook fluxhook; fi
`;
}

function writeFish(tree: readonly Branch[]): string {
  const quote = (text: string) => `'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`;
  const lines = tree.flatMap(({ name, description, options, arguments: words }) => {
    const inside = `complete -c fluxhook -n '__fish_seen_subcommand_from ${name}'`;
    return [
      `complete -c fluxhook -n __fish_use_subcommand -f -a ${name} -d ${quote(description)}`,
      ...(words === "path"
        ? [`${inside} -F`]
        : [`${inside} -f${words.length > 0 ? ` -a ${quote(words.join(" "))}` : ""}`]),
      ...options.map(({ name: option, description: text, values, takesValue }) => {
        const value = values === "path" ? " -r -F" : values?.length ? ` -x -a ${quote(values.join(" "))}` : " -x";
        return `${inside} -l ${option.slice(2)}${takesValue ? value : ""} -d ${quote(text)}`;
      }),
    ];
  });
  return `# fish completion of fluxhook\n${lines.join("\n")}\n`;
}
