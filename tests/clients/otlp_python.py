"""OpenTelemetry's Python SDK: one log record, one metric of each kind, one trace, by OTLP/HTTP with protobuf, plain and
packed. The exporters' own verdict counts, and a wrong key must be refused."""

import logging
import os

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExportResult, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult

from judge import done, expect, need

need("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS")
logging.disable(logging.CRITICAL)
resource = Resource.create({"service.name": "judge", "judge.language": "python"})
results = []


def kept(kind, export):
    """Keeps what an exporter says of each batch; the SDK only logs it."""

    def wrapped(*arguments, **named):
        result = export(*arguments, **named)
        results.append((kind, result))
        return result

    return wrapped


def trace(compression=None, headers=None, timeout=None):
    exporter = OTLPSpanExporter(compression=compression, headers=headers, timeout=timeout)
    exporter.export = kept("trace", exporter.export)
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("judge")
    with tracer.start_as_current_span("outer") as outer:
        with tracer.start_as_current_span("inner") as inner:
            inner.set_attribute("n", 42)
            inner.set_attribute("list", [1, 2])
        outer.record_exception(ValueError("an exception on purpose"))
    provider.shutdown()


trace()
trace(Compression.Gzip)
expect(len(results) == 4, f"{len(results)} of 4 spans were exported")

exporter = OTLPMetricExporter()
exporter.export = kept("metric", exporter.export)
provider = MeterProvider([PeriodicExportingMetricReader(exporter, 3_600_000)], resource=resource)
meter = provider.get_meter("judge")
meter.create_counter("judge.count").add(3)
meter.create_up_down_counter("judge.level").add(-2)
meter.create_histogram("judge.time", unit="ms").record(12.5)
meter.create_gauge("judge.gauge").set(0.5)
provider.force_flush()
provider.shutdown()

from opentelemetry._logs import LogRecord, SeverityNumber  # noqa: E402
from opentelemetry.sdk._logs import LoggerProvider  # noqa: E402
from opentelemetry.sdk._logs.export import LogRecordExportResult, SimpleLogRecordProcessor  # noqa: E402

exporter = OTLPLogExporter(compression=Compression.Gzip)
exporter.export = kept("log", exporter.export)
provider = LoggerProvider(resource=resource)
provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
provider.get_logger("judge").emit(
    LogRecord(body={"said": "hello"}, severity_number=SeverityNumber.WARN, severity_text="WARN", attributes={"n": 1})
)
provider.shutdown()

good = {"trace": SpanExportResult.SUCCESS, "metric": MetricExportResult.SUCCESS, "log": LogRecordExportResult.SUCCESS}
refused = [kind for kind, result in results if result != good[kind]]
expect(not refused, f"refused: {', '.join(refused)}")
expect({kind for kind, _ in results} == set(good), f"exported only {sorted({kind for kind, _ in results})}")

results.clear()
os.environ["OTEL_EXPORTER_OTLP_HEADERS"] = ""
trace(headers={"x-ingest-key": "not-the-key"}, timeout=2)
expect(all(result == SpanExportResult.FAILURE for _, result in results), "a wrong key was accepted")
done("traces, metrics and logs in protobuf, plain and gzip; a wrong key is refused")
