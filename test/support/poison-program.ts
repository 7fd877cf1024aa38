/**
 * Given to a worker with `bun --preload`: makes a runtime with a fault of it, of which a text with a marker ends or hangs the process that
 * parses it.
 */
const { parse } = JSON;

JSON.parse = (text: string, ...given: []) => {
  if (text.includes('"kills":true')) process.kill(process.pid, "SIGKILL");
  while (text.includes('"hangs":true')); // for good
  return parse(text, ...given);
};
