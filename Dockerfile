# The worker; the board runs from the same image with `bun src/board.ts`.
# The version is the one that package.json pins; a test compares them.
FROM oven/bun:1.4.5-slim

WORKDIR /app
ENV NODE_ENV=production

# The dependencies in a layer of their own: a change of source does not install them again.
COPY package.json bun.lock ./
RUN bun install --frozen-lockfile --production

# tsconfig.json is read at run time: it tells Bun how to compile JSX.
COPY tsconfig.json ./
COPY src ./src
COPY jobs ./jobs

USER bun

# The image has neither curl nor wget: Bun asks. Any answer but 2xx, or none in time, is unhealthy.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
  CMD ["bun", "-e", "const { ok } = await fetch(`http://127.0.0.1:${process.env.WORKER_PORT || 9464}/healthz`); process.exit(ok ? 0 : 1)"]

# In exec form the worker is process 1 and gets the signal itself, to finish what is in flight.
STOPSIGNAL SIGTERM
CMD ["bun", "src/worker.ts"]
