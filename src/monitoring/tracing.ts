/**
 * Traces: from the backend's span, which BullMQ carries in the job, over the worker's to the POST and its `traceparent`.
 *
 * Imported only when tracing is on: without it no part of OpenTelemetry is loaded. Where spans go is read by its exporter
 * from the standard `OTEL_…` variables.
 */
import {
  type Attributes,
  context,
  propagation,
  ROOT_CONTEXT,
  SpanKind,
  SpanStatusCode,
  trace,
} from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import { ExportResultCode, W3CTraceContextPropagator } from "@opentelemetry/core";
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-http";
import { detectResources, envDetector, resourceFromAttributes } from "@opentelemetry/resources";
import {
  BatchSpanProcessor,
  ParentBasedSampler,
  type Sampler,
  SamplingDecision,
  type SpanExporter,
  TraceIdRatioBasedSampler,
  TracerProvider,
} from "@opentelemetry/sdk-trace";
import type { Telemetry } from "bullmq";
import { BullMQOtel } from "bullmq-otel";
import { errorCode, type Outcome, statusCode } from "../delivery/outcome.ts";
import { endpointName, type WebhookRequest } from "../delivery/request.ts";
import type { Sender } from "../http/sender.ts";
import { within } from "../runtime/deadline.ts";
import type { Logger } from "../runtime/logger.ts";

const LAST_SPANS_MS = 2 * 1000; // 2 s for the last spans: a collector that is away must not hold up a shutdown
const NAME = "fluxhook"; // the service's, unless OTEL_SERVICE_NAME says otherwise
const RECORDED_HEADERS = new Set(["X-Fluxdrop-Event", "X-Fluxdrop-Delivery", "webhook-id"]);

export interface Tracing {
  /** For BullMQ's worker: a span for each time that a job is processed. */
  readonly telemetry: Telemetry;
  /** The same sender, with a span for each request, and with its `traceparent` among the headers. */
  trace(sender: Pick<Sender, "send">): Pick<Sender, "send">;
  /** Send what is left, within 2 s. */
  close(): Promise<void>;
}

/**
 * Start tracing, once in a process.
 *
 * @param share  in (0, 1]: of the deliveries whose backend does not trace; where it does, its decision holds
 */
export function startTracing(share: number, logger: Pick<Logger, "info" | "warn">): Tracing {
  const provider = new TracerProvider({
    resource: resourceFromAttributes({ "service.name": NAME }).merge(detectResources({ detectors: [envDetector] })),
    sampler: createSampler(share),
    spanProcessors: [new BatchSpanProcessor({ exporter: createExporter(logger) })],
  });
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
  propagation.setGlobalPropagator(new W3CTraceContextPropagator()); // no baggage: it is not for customers
  trace.setGlobalTracerProvider(provider);
  return {
    telemetry: createTelemetry(),
    trace: ({ send }) => ({ send: (request, key) => traced(request, (carrying) => send(carrying, key)) }),
    async close() {
      const isDone = await within(
        LAST_SPANS_MS,
        provider.shutdown().then(() => true),
        false,
      );
      if (!isDone) logger.warn({ reason: `not exported within ${LAST_SPANS_MS} ms` }, "spans.lost");
    },
  };
}

/** BullMQ also makes spans for its housekeeping, which belongs to no delivery: fetching, polling, looking for stalled jobs. */
function createSampler(share: number): Sampler {
  const byParent = new ParentBasedSampler({ root: new TraceIdRatioBasedSampler(share) });
  return {
    shouldSample(parent, traceId, name, kind, attributes, links) {
      const span = trace.getSpanContext(parent);
      const isWithinProcess = span !== undefined && span.isRemote !== true;
      if (kind === SpanKind.INTERNAL && !isWithinProcess) return { decision: SamplingDecision.NOT_RECORD };
      return byParent.shouldSample(parent, traceId, name, kind, attributes, links);
    },
    toString: () => `Deliveries{${byParent}}`,
  };
}

/** An exporter that says once when spans begin to get lost, and once when they arrive again. */
function createExporter(logger: Pick<Logger, "info" | "warn">): SpanExporter {
  const exporter = new OTLPTraceExporter();
  let isFailing = false;
  return {
    export: (spans, done) =>
      exporter.export(spans, (result) => {
        const hasFailed = result.code !== ExportResultCode.SUCCESS;
        if (hasFailed && !isFailing) logger.warn({ reason: result.error?.message, spans: spans.length }, "spans.lost");
        if (!hasFailed && isFailing) logger.info({ spans: spans.length }, "spans.exported");
        isFailing = hasFailed;
        done({ code: ExportResultCode.SUCCESS });
      }),
    forceFlush: () => exporter.forceFlush(),
    shutdown: () => exporter.shutdown(),
  };
}

/** BullMQ's adapter, but for contexts that nobody can read: they throw in it, and the job would stay active for ever. */
function createTelemetry(): Telemetry {
  const { tracer, contextManager } = new BullMQOtel({ tracerName: NAME });
  return {
    tracer,
    contextManager: {
      root: () => ROOT_CONTEXT,
      active: () => contextManager.active(),
      with: (active, run) => contextManager.with(active, run),
      getMetadata: (active) => contextManager.getMetadata(active),
      fromMetadata(active, metadata) {
        try {
          return contextManager.fromMetadata(active, metadata);
        } catch {
          return active;
        }
      },
    },
  };
}

async function traced(request: WebhookRequest, send: (request: WebhookRequest) => Promise<Outcome>): Promise<Outcome> {
  const attributes = describeRequest(request);
  const span = trace.getTracer(NAME).startSpan("POST", { kind: SpanKind.CLIENT, attributes });
  const carrier: { traceparent?: string } = {};
  propagation.inject(trace.setSpan(context.active(), span), carrier);
  try {
    // Not the `tracestate` that comes with it: what the backend's vendors note there is not for customers.
    const line = carrier.traceparent === undefined ? "" : `traceparent: ${carrier.traceparent}\r\n`;
    const outcome = await send({ ...request, head: request.head + line });
    const error = errorCode(outcome);
    span.setAttribute("http.response.status_code", statusCode(outcome) ?? undefined);
    if (error !== null) span.setAttribute("error.type", error).setStatus({ code: SpanStatusCode.ERROR });
    return outcome;
  } finally {
    span.end();
  }
}

/** By OpenTelemetry's names for HTTP clients. The URL goes without its query, which may carry a token. */
function describeRequest({ url, head }: WebhookRequest): Attributes {
  const attributes: Attributes = {
    "http.request.method": "POST",
    "url.full": endpointName(url),
    "server.address": url.hostname,
    "server.port": Number(url.port) || (url.protocol === "https:" ? 443 : 80),
  };
  for (const [, name = "", value = ""] of head.matchAll(/^(.+?): (.*)\r$/gm)) {
    if (RECORDED_HEADERS.has(name)) attributes[`http.request.header.${name.toLowerCase()}`] = [value];
  }
  return attributes;
}
