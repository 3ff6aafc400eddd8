// OpenTelemetry's JavaScript SDK: logs, metrics and traces by OTLP/HTTP as JSON, chunked, as Node sends them.
import { OTLPLogExporter } from "@opentelemetry/exporter-logs-otlp-http";
import { OTLPMetricExporter } from "@opentelemetry/exporter-metrics-otlp-http";
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-http";
import { LoggerProvider, SimpleLogRecordProcessor } from "@opentelemetry/sdk-logs";
import { MeterProvider, PeriodicExportingMetricReader } from "@opentelemetry/sdk-metrics";
import { BasicTracerProvider, SimpleSpanProcessor } from "@opentelemetry/sdk-trace-base";
import { done, expect, need } from "./judge.mjs";

need("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS");
const results = {};

// Keeps what an exporter says of each batch; the SDK only logs it.
function kept(kind, exporter) {
  const send = exporter.export.bind(exporter);
  exporter.export = (batch, callback) =>
    send(batch, (result) => {
      (results[kind] ??= []).push(result.error?.message ?? result.code);
      callback(result);
    });
  return exporter;
}

const tracing = new BasicTracerProvider({
  spanProcessors: [new SimpleSpanProcessor(kept("traces", new OTLPTraceExporter()))],
});
const span = tracing.getTracer("judge").startSpan("outer", { attributes: { n: 42, list: ["a", "b"], half: 0.5 } });
span.addEvent("event", { big: 9007199254740991 });
span.end();
await tracing.forceFlush();

const metering = new MeterProvider({
  readers: [
    new PeriodicExportingMetricReader({
      exporter: kept("metrics", new OTLPMetricExporter()),
      exportIntervalMillis: 3_600_000,
    }),
  ],
});
const meter = metering.getMeter("judge");
meter.createCounter("judge.count").add(3);
meter.createHistogram("judge.time").record(12.5);
meter.createGauge("judge.gauge").record(0.5);
await metering.forceFlush();

const logging = new LoggerProvider({
  processors: [new SimpleLogRecordProcessor({ exporter: kept("logs", new OTLPLogExporter()) })],
});
logging.getLogger("judge").emit({ body: { said: "hello" }, severityNumber: 13, attributes: { n: 1 } });
await logging.forceFlush();
await Promise.all([tracing.shutdown(), metering.shutdown(), logging.shutdown()]);

for (const kind of ["traces", "metrics", "logs"]) {
  const said = results[kind] ?? ["nothing was exported"];
  expect(
    said.every((result) => result === 0),
    `${kind}: ${said.find((result) => result !== 0)}`,
  );
}
done("traces, metrics and logs in JSON");
