"""Which devices a container may open: the rules of a configuration as one table.

Rules are applied in order to an initially closed table, the default devices last: that is runc's
reading of the OCI document. v1 is then told the difference to what its cgroup has now, so that an
update never closes a device for a moment; v2 gets the table as a program (`device_program`).
"""

import itertools

from cutaway.errors import FailedPrecondition, InvalidArgument
from cutaway.linux.cgroups import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.oci.runtime_spec import DeviceRule

ANY = -1

Key = tuple[str, int, int]  # type (c or b), major, minor; ANY for the last two

# What every container may do: make any node (opening it is another matter), and use the devices that
# the OCI runtime specification, "Default Devices", has the runtime create.
DEFAULT_RULES: tuple[tuple[Key, str], ...] = (
    (("c", ANY, ANY), "m"),
    (("b", ANY, ANY), "m"),
    (("c", 1, 3), "rwm"),  # null
    (("c", 1, 8), "rwm"),  # random
    (("c", 1, 7), "rwm"),  # full
    (("c", 5, 0), "rwm"),  # tty
    (("c", 1, 5), "rwm"),  # zero
    (("c", 1, 9), "rwm"),  # urandom
    (("c", 136, ANY), "rwm"),  # pts
    (("c", 5, 2), "rwm"),  # ptmx
    (("c", 10, 200), "rwm"),  # net/tun, which the specification does not name: runc's
)


class Table:
    """`open`: what happens to a device that no rule matches; `rules`: the exceptions, with their accesses."""

    __slots__ = ("open", "rules")

    def __init__(self, open: bool = False) -> None:
        self.open = open
        self.rules: dict[Key, set[str]] = {}

    def set_all(self, allow: bool) -> None:
        self.open = allow
        self.rules.clear()

    def put(self, key: Key, access: str, allow: bool) -> None:
        """Allow or deny accesses, as the v1 kernel does: an exception is added or taken away.

        Raises `InvalidArgument` where taking away would change nothing because a wildcard still grants
        it: the kernel ignores such a rule in silence, and the container would have the device.
        """
        if allow != self.open:
            self.rules.setdefault(key, set()).update(access)
            return
        self._refuse_hidden(key, access)
        left = self.rules.get(key, set()) - set(access)
        if left:
            self.rules[key] = left
        else:
            self.rules.pop(key, None)

    def _refuse_hidden(self, key: Key, access: str) -> None:
        for other, granted in self.rules.items():
            wider = other != key and other[0] == key[0] and all(
                mine == ANY or theirs in (ANY, mine) for mine, theirs in zip(key[1:], other[1:], strict=True)
            )  # fmt: skip
            if wider and granted & set(access):
                raise InvalidArgument(
                    f"linux.resources.devices: the rule for {text(key, access)} would have no effect beside "
                    f"the one for {text(other, granted)}; remove that one first"
                )


def text(key: Key, access: "set[str] | str") -> str:
    """A rule as devices.allow takes it."""
    kind, *numbers = key
    major, minor = ("*" if number == ANY else str(number) for number in numbers)
    letters = "".join(letter for letter in "rwm" if letter in access)
    return f"{kind} {major}:{minor} {letters}"


def table(rules: "list[DeviceRule] | None") -> Table:
    """The configuration's rules, then the default devices."""
    result = Table()
    for index, rule in enumerate(rules or ()):
        if not rule.access:
            path = f"linux.resources.devices[{index}].access"
            raise InvalidArgument(
                f"device access at {index} field cannot be empty ({path}: expected letters of rwm)"
            )
        _put_rule(result, rule, f"linux.resources.devices[{index}]")
    for key, access in DEFAULT_RULES:
        if not result.open:
            result.put(key, access, True)
    return result


def _put_rule(result: Table, rule: "DeviceRule", where: str) -> None:
    kind = rule.type or "a"
    if kind == "a":
        result.set_all(rule.allow)
        return
    if kind not in ("c", "b"):
        raise InvalidArgument(f'{where}.type: invalid cgroup device type "{kind}"; expected a, c or b')
    access = rule.access or ""
    if not rule.allow:  # as runc: what a rule takes away may be more than there is
        access = "".join(letter for letter in "rwm" if letter in access)
    elif set(access) - set("rwm"):
        raise InvalidArgument(f'{where}.access: expected letters of rwm, got "{access}"')
    major = ANY if rule.major is None else rule.major
    minor = ANY if rule.minor is None else rule.minor
    if not (ANY <= major < 1 << 31 and ANY <= minor < 1 << 31):
        raise InvalidArgument(f"{where}: expected numbers from -1 to {(1 << 31) - 1}, got {major}:{minor}")
    result.put((kind, major, minor), access, rule.allow)


def parse(listing: str) -> Table:
    """The table that a v1 cgroup has now (devices.list). Only an open one has the line of `a`."""
    result = Table()
    for line in listing.splitlines():
        kind, numbers, access = line.split()
        if kind == "a":
            result.set_all(True)
            continue
        major, minor = (ANY if part == "*" else int(part) for part in numbers.split(":"))
        result.put((kind, major, minor), access, True)
    return result


def apply_v1(directory: str, rules: "list[DeviceRule] | None") -> None:
    """Make a v1 devices cgroup hold the rules, and see that it does.

    Raises `FailedPrecondition` when the result differs, e.g. because a parent allows less.
    """
    wanted, writes = changes(files.read(f"{directory}/devices.list"), rules)
    for file, entries in itertools.groupby(writes, lambda entry: entry[0]):
        files.write_each(f"{directory}/devices.{file}", [line for _, line in entries])
    result = parse(files.read(f"{directory}/devices.list"))
    if result.open != wanted.open or (not wanted.open and result.rules != wanted.rules):
        raise FailedPrecondition(
            f"{directory} does not have the device rules that were written; a cgroup above it may allow less"
        )


def changes(listing: str, rules: "list[DeviceRule] | None") -> tuple[Table, list[tuple[str, str]]]:
    """The table that is wanted, and the writes that lead there from devices.list."""
    wanted = table(rules)
    return wanted, _difference(parse(listing), wanted)


def _difference(have: Table, wanted: Table) -> list[tuple[str, str]]:
    """Writes that lead from one table to the other: (allow or deny, line)."""
    writes = []
    present = have.rules
    if have.open != wanted.open or wanted.open:
        # An open cgroup does not list its exceptions, so those are always started afresh.
        if have.open and wanted.open and not wanted.rules:
            return []
        writes.append(("allow" if wanted.open else "deny", "a"))
        present = {}
    grant, revoke = ("deny", "allow") if wanted.open else ("allow", "deny")
    for key, access in present.items():
        gone = access - wanted.rules.get(key, set())
        if gone:
            writes.append((revoke, text(key, gone)))
    for key, access in wanted.rules.items():
        new = access - present.get(key, set())
        if new:
            writes.append((grant, text(key, new)))
    return writes
