"""Spans and their context across all seams.

context   trace ids and W3C `traceparent`, the current span
spans     recording: `span("name", key=value)` as a context manager
otlp      spans as OTLP/JSON, and sending them to a collector
collect   reading OTLP/JSON back (the engine's collector, the viewer)
"""
