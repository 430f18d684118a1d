"""Lists as docker prints them: aligned columns, a template a row, IDs only.

A list is rows of named values and a heading for each name. `--format` is a template for a row;
`table TEMPLATE` puts headings over it and aligns its tabs.
"""

from cutaway.cli.template import Template

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MINIMUM = 10
PADDING = 3


class Row:
    """A row's values by name, each computed when a template asks for it; also methods with arguments."""

    def __init__(
        self,
        fields: "Mapping[str, Callable[[], object]]",
        methods: "Mapping[str, Callable[[str], object]] | None" = None,
    ) -> None:
        self._fields = fields
        self._methods = methods or {}

    def field(self, name: str) -> object:
        """Raises KeyError for a name it has not."""
        if name in self._fields:
            return self._fields[name]()
        return self._methods[name]

    def as_json(self) -> dict[str, object]:
        return {name: self._fields[name]() for name in sorted(self._fields)}


def align(lines: "Sequence[Sequence[str]]") -> str:
    """Cells in columns: three blanks between two, ten characters at least, nothing after the last."""
    widths: list[int] = []
    for line in lines:
        for index, cell in enumerate(line[:-1]):
            if index == len(widths):
                widths.append(MINIMUM)
            widths[index] = max(widths[index], len(cell) + PADDING)
    out = []
    for line in lines:
        cells = [cell.ljust(widths[index]) for index, cell in enumerate(line[:-1])]
        out.append("".join([*cells, *line[-1:]]))
    return "\n".join(out)


def show(rows: "Sequence[Row]", headings: "Mapping[str, str]", columns: "Sequence[str]", form: str) -> None:
    """Print a list in the columns given, or in the format asked for (`--format`)."""
    if not form or form == "table":
        table = [[headings[name] for name in columns]]
        table += [[str(row.field(name)) for name in columns] for row in rows]
        print(align(table))
        return
    titled = form.startswith("table ")
    template = Template(
        form.removeprefix("table ").strip() if titled else form, "failed to execute template: "
    )
    lines = [template.render(row) for row in rows]
    if titled:
        top = Row({name: (lambda title=title: title) for name, title in headings.items()}, {})  # type: ignore[misc]
        lines.insert(0, template.render(top))
        print(align([line.split("\t") for line in lines]))
        return
    for line in lines:
        print(line)
