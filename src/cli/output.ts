/**
 * Standard output, tracked until it is flushed or fails.
 */

/** The writes to a stream. */
export interface Output {
  /** Wait until every write has completed or failed. Never rejects. */
  finish(): Promise<void>;
}

/**
 * Track every write to a stream. On Bun, an empty final write completes before earlier writes, so each is tracked.
 *
 * @param onError  called for the first write that failed: `EPIPE` when the reader has exited, as `head` does
 */
export function watchOutput(stream: NodeJS.WriteStream, onError: (error: NodeJS.ErrnoException) => void): Output {
  const pending = new Set<Promise<void>>();
  let hasFailed = false;
  const fail = (error: NodeJS.ErrnoException): void => {
    if (!hasFailed) onError(error);
    hasFailed = true;
  };
  const write = stream.write.bind(stream);
  stream.on("error", fail);
  stream.write = (chunk: string | Uint8Array): boolean => {
    const { promise, resolve } = createDone();
    pending.add(promise);
    return write(chunk, (error) => {
      if (error) fail(error);
      pending.delete(promise);
      resolve();
    });
  };
  return { finish: async () => void (await Promise.all(pending)) };
}

/** Node 20 has no Promise.withResolvers. */
function createDone() {
  let resolve!: () => void;
  const promise = new Promise<void>((onResolve) => {
    resolve = onResolve;
  });
  return { promise, resolve };
}
