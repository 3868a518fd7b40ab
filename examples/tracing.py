"""OpenTelemetry: a span for each request, and one inside of it for what takes long.

    pip install 'fastserve[otel]' opentelemetry-sdk
    fastserve run examples/tracing.py
    curl http://127.0.0.1:8000/orders/7     ->  {"id":7,"items":3}, and two spans on stdout

Where the spans go is the SDK's: a real application exports them to a collector.
"""

import asyncio
import sys

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from fastserve import App
from fastserve.otel import instrument

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stdout)))
tracer = provider.get_tracer(__name__)

app = App()
instrument(app, provider)


@app.get("/orders/{id}")
async def order(id: int):
    with tracer.start_as_current_span("SELECT items"):     # a child of "GET /orders/{id}"
        await asyncio.sleep(0.01)
    return {"id": id, "items": 3}
