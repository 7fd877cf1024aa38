/** Preloaded into a process, prints the packages it has loaded when it exits: a line `loaded [...]` on stderr. */
process.on("exit", () => {
  const packages = Object.keys(require.cache).map((file) => /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(file)?.[1]);
  process.stderr.write(`loaded ${JSON.stringify([...new Set(packages)])}\n`);
});
