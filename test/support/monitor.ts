/** What a Valkey is told, as its MONITOR tells it. */
import { connect } from "node:net";

export interface Monitor {
  /** The commands since it began, a line each. */
  lines(): readonly string[];
  stop(): Promise<void>;
}

/**
 * Begin to watch: what is sent after this has resolved is seen. Over a socket of its own, since with ioredis's
 * `monitor()` a command that is told before MONITOR has been answered ends the connection.
 */
export async function startMonitor(url: string): Promise<Monitor> {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname);
  const isOn = Promise.withResolvers<void>();
  let text = "";
  socket.on("error", isOn.reject);
  socket.on("data", (bytes: Buffer) => {
    text += bytes.toString();
    isOn.resolve();
  });
  socket.write("MONITOR\r\n");
  await isOn.promise;
  return {
    lines: () => text.split("\r\n"),
    stop: async () => void socket.destroy(),
  };
}
