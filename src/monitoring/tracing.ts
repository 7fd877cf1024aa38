/**
 * Tracing: continues the producer's trace, which BullMQ stores in the job, through the worker to the POST and its `traceparent`.
 *
 * Imported only when tracing is on, so that OpenTelemetry is not loaded otherwise. Its exporter is configured by the standard
 * `OTEL_…` variables.
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

const LAST_SPANS_MS = 2 * 1000; // 2 s for the last spans: an unreachable collector must not delay shutdown
const NAME = "fluxhook"; // default service name; OTEL_SERVICE_NAME overrides it
const RECORDED_HEADERS = new Set(["X-Fluxdrop-Event", "X-Fluxdrop-Delivery", "webhook-id"]);

export interface Tracing {
  /** For BullMQ's worker: creates a span each time a job is processed. */
  readonly telemetry: Telemetry;
  /** Wrap a sender so that each request gets a span and a `traceparent` header. */
  trace(sender: Pick<Sender, "send">): Pick<Sender, "send">;
  /** Export the remaining spans, within 2 s. */
  close(): Promise<void>;
}

/**
 * Start tracing. Call it once per process.
 *
 * @param share  in (0, 1]: sampling ratio for deliveries without a trace of their producer; otherwise the producer's decision holds
 */
export function startTracing(share: number, logger: Pick<Logger, "info" | "warn">): Tracing {
  const provider = new TracerProvider({
    resource: resourceFromAttributes({ "service.name": NAME }).merge(detectResources({ detectors: [envDetector] })),
    sampler: createSampler(share),
    spanProcessors: [new BatchSpanProcessor({ exporter: createExporter(logger) })],
  });
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
  propagation.setGlobalPropagator(new W3CTraceContextPropagator()); // without baggage, which is not meant for customers
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

/** Drops BullMQ's spans for housekeeping such as fetching, polling and stall checks, which belong to no delivery. */
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

/** An exporter that logs once when exports start to fail, and once when they succeed again. */
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

/** BullMQ's adapter, made tolerant of unreadable trace contexts: it throws on them, and the job would stay active forever. */
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
    // Without `tracestate`: vendor data from the producer's tracing is not meant for customers.
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

/** Attributes by OpenTelemetry's conventions for HTTP clients. The URL omits its query, which may contain a token. */
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
