"""The progress of a pull, push or load on a terminal: one line a layer, redrawn in place."""

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from cutaway.cli import units

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, TextIO


class _Layer:
    """What was last said of one layer."""

    def __init__(self) -> None:
        self.status = ""
        self.current = 0
        self.total = 0

    def update(self, message: "dict[str, Any]") -> None:
        self.status = str(message.get("status") or "")
        detail = message.get("progressDetail")
        detail = detail if isinstance(detail, dict) else {}
        self.current, self.total = int(detail.get("current") or 0), int(detail.get("total") or 0)


def show_live(messages: "Iterable[dict[str, Any]]", out: "TextIO") -> None:
    """Show progress until the stream ends; the last state of every layer stays on the screen.

    Lines that are about no layer (`latest: Pulling from ...`, `Digest: ...`) are printed above.
    """
    layers: dict[str, _Layer] = {}
    console = Console(file=out, highlight=False, markup=False)
    ending: list[str] = []
    with Live(console=console, refresh_per_second=10, transient=False) as live:
        for message in messages:
            if isinstance(text := message.get("stream"), str):
                live.console.print(text.rstrip("\n"))
                continue
            name, status = str(message.get("id") or ""), str(message.get("status") or "")
            if name and not status.startswith("Pulling from"):
                layers.setdefault(name, _Layer()).update(message)
                live.update(_table(layers))
            elif layers:
                ending.append(f"{name}: {status}" if name else status)
            else:
                live.console.print(f"{name}: {status}" if name else status)
    for line in ending:
        console.print(line)


def _table(layers: "dict[str, _Layer]") -> Table:
    table = Table.grid(padding=(0, 1))
    for name, layer in layers.items():
        if not layer.total:
            table.add_row(f"{name}:", layer.status)
            continue
        amount = f"{units.human_size(layer.current, 4)}/{units.human_size(layer.total, 4)}"
        bar = ProgressBar(total=layer.total, completed=layer.current, width=30)
        table.add_row(f"{name}:", layer.status, bar, amount)
    return table
