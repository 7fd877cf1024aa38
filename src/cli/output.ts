/**
 * Standard output to its end: whether what the command said could be written.
 */

/** Everything that is written to a stream. */
export interface Output {
  /** Waits until all of it is out, or has failed. Never rejects. */
  finish(): Promise<void>;
}

/**
 * Watch all writes to a stream, each by itself: on Bun an empty write at the end is done before those that came earlier.
 *
 * @param onTrouble  told of the first write that failed: `EPIPE` when who read has had enough, as `head` has
 */
export function watchOutput(stream: NodeJS.WriteStream, onTrouble: (error: NodeJS.ErrnoException) => void): Output {
  const underWay = new Set<Promise<void>>();
  let isTold = false;
  const tell = (error: NodeJS.ErrnoException): void => {
    if (!isTold) onTrouble(error);
    isTold = true;
  };
  const write = stream.write.bind(stream);
  stream.on("error", tell);
  stream.write = (chunk: string | Uint8Array): boolean => {
    const { promise, resolve } = createDone();
    underWay.add(promise);
    return write(chunk, (error) => {
      if (error) tell(error);
      underWay.delete(promise);
      resolve();
    });
  };
  return { finish: async () => void (await Promise.all(underWay)) };
}

/** Node 20 has no Promise.withResolvers. */
function createDone() {
  let resolve!: () => void;
  const promise = new Promise<void>((onResolve) => {
    resolve = onResolve;
  });
  return { promise, resolve };
}
