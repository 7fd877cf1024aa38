/**
 * A backend that traces, as a process of its own: `bun test/support/tracing-backend.ts <queue> <job data as JSON>`. Enqueues
 * one event within a span of its own.
 */
import { context, propagation, trace } from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import { W3CTraceContextPropagator } from "@opentelemetry/core";
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-http";
import { resourceFromAttributes } from "@opentelemetry/resources";
import { SimpleSpanProcessor, TracerProvider } from "@opentelemetry/sdk-trace";
import { Queue } from "bullmq";
import { BullMQOtel } from "bullmq-otel";

const [queueName, data] = process.argv.slice(2);
const provider = new TracerProvider({
  resource: resourceFromAttributes({ "service.name": "backend" }),
  spanProcessors: [new SimpleSpanProcessor({ exporter: new OTLPTraceExporter() })],
});
context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
propagation.setGlobalPropagator(new W3CTraceContextPropagator());
trace.setGlobalTracerProvider(provider);

const queue = new Queue(queueName as string, {
  connection: { url: process.env.VALKEY_URL as string },
  telemetry: new BullMQOtel({ tracerName: "backend" }),
});
await trace.getTracer("backend").startActiveSpan("upload", async (span) => {
  await queue.add("file.created", JSON.parse(data as string));
  span.end();
});
await queue.close();
await provider.shutdown();
process.exit(0);
