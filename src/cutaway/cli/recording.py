"""The CLI's own spans: one for the command, one for each request; handed to the engine at the end.

The context goes out with every request (`traceparent`), so that every part below adds its spans to
the same trace. Ours are sent when all output has been printed: tracing costs the run nothing. They go
to OTEL_EXPORTER_OTLP_ENDPOINT if that is set, else to the engine itself if it says it is one of ours.
"""

import os

from cutaway.cli.command import Invocation
from cutaway.trace import otlp, spans

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.cli.client import Client

SERVICE = "cutaway"


class Recording:
    """The trace of one command; use `root` as a context manager around the work."""

    def __init__(self, invocation: Invocation, **attributes: str) -> None:
        self.client: Client = invocation.client
        self._buffer = otlp.Buffer(os.environ.get(otlp.ENDPOINT, ""))
        spans.configure(SERVICE, self._buffer)
        name = f"{invocation.path} {attributes.get('image', '')}".strip()
        self.root = spans.span(name)
        self.root.set(**{f"container.{key}": value for key, value in attributes.items()})
        self.root.set(**{"process.command_line": " ".join(invocation.words)})

    @property
    def trace_id(self) -> str:
        return self.root.context.trace_id

    def deliver(self) -> None:
        """Hand the spans on."""
        if self._buffer.endpoint not in ("", f"unix://{self.client.socket_path}"):
            self._buffer.flush()
        elif self.client.is_cutaway:
            self.client.post_spans(otlp.encode(self._buffer.batch))

    def show(self) -> None:
        """Print the waterfall of everything recorded, on stderr."""
        import sys

        from cutaway.cli.trace import collected, render

        sys.stdout.flush()
        found = collected(self.client, f"/v1/traces/{self.trace_id}", own=self._buffer.batch)
        print(render(found), file=sys.stderr)
