"""What is asked of systemd over D-Bus (org.freedesktop.systemd1(5)), and how long it may take."""

import os

from cutaway.errors import AlreadyExists, CutawayError, FailedPrecondition, NotFound, Unavailable
from cutaway.linux.dbus.connection import BUS, BUS_PATH, SYSTEM_BUS, Connection, DBusError
from cutaway.linux.dbus.wire import Variant

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cutaway.linux.dbus.wire import Message

NAME, PATH = "org.freedesktop.systemd1", "/org/freedesktop/systemd1"
MANAGER = "org.freedesktop.systemd1.Manager"
PRIVATE = "unix:path=/run/systemd/private"  # systemd's own socket, for root, where no bus runs

# SetUnitProperties is refused with these for properties that this systemd does not know.
_UNKNOWN = frozenset(
    {"org.freedesktop.DBus.Error.PropertyReadOnly", "org.freedesktop.DBus.Error.UnknownProperty"}
)

Properties = list[tuple[str, Variant]]


class Systemd:
    """The system's systemd, or with `user` the user's own. To be closed."""

    def __init__(self, *, user: bool) -> None:
        """Raises `Unavailable` when neither bus nor systemd answers."""
        self._subscribed = False
        self._version = -1
        try:
            self._connection = _user_bus() if user else _system()
        except CutawayError as error:
            hint = (
                "hint: for rootless containers, maybe you need to install dbus-user-session package"
                if user
                else "is dbus-daemon running?"
            )
            raise Unavailable(f"failed to connect to dbus ({hint}): {error}") from error

    def __enter__(self) -> "Systemd":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def _call(self, member: str, signature: str = "", *values: "Any") -> "list[Any]":
        return self._connection.call(NAME, PATH, MANAGER, member, signature, list(values))

    def manager_property(self, name: str) -> str:
        """A property of the manager that is text."""
        found = self._connection.call(
            NAME, PATH, "org.freedesktop.DBus.Properties", "Get", "ss", [MANAGER, name]
        )
        variant = found[0] if found else None
        if not isinstance(variant, Variant) or not isinstance(variant.value, str):
            raise Unavailable(f"systemd gives no {name}")
        return variant.value

    def version(self) -> int:
        """252 of "252.38-1~deb12u1", "v252" and the like; 0 for text without a number."""
        if self._version < 0:
            text = self.manager_property("Version").lstrip("v")
            digits = len(text) - len(text.lstrip("0123456789"))
            self._version = int(text[:digits] or 0)
        return self._version

    def start(self, unit: str, properties: Properties) -> None:
        """StartTransientUnit, and wait for its job. Raises `AlreadyExists`, `FailedPrecondition`.

        A unit that has failed and was not reset is in the way of a new one: it is reset.
        """
        try:
            self._start(unit, properties)
        except AlreadyExists:
            self.reset_failed(unit)
            self._start(unit, properties)

    def _start(self, unit: str, properties: Properties) -> None:
        self._subscribe()
        try:
            job = self._call("StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "replace", properties, [])[0]
        except DBusError as error:
            if error.name.endswith(".UnitExists"):
                raise AlreadyExists(f"unable to start unit {unit}: {error}") from None
            raise FailedPrecondition(f"unable to start unit {unit}: {error}") from None
        result = self._result(job, f"systemd to create {unit}")
        if result != "done":
            self.reset_failed(unit)
            raise FailedPrecondition(f"error creating systemd unit `{unit}`: got `{result}`")

    def stop(self, unit: str) -> None:
        """StopUnit, and wait for its job; a unit that is gone is no error."""
        self._subscribe()
        try:
            job = self._call("StopUnit", "ss", unit, "replace")[0]
        except DBusError as error:
            if error.name.endswith(".NoSuchUnit"):
                return
            raise FailedPrecondition(f"unable to stop unit {unit}: {error}") from None
        self._result(job, f"systemd to remove {unit}")
        self.reset_failed(unit)

    def set_properties(self, unit: str, properties: Properties) -> None:
        """SetUnitProperties until the next boot. Raises `NotFound`, `FailedPrecondition`."""
        if not properties:
            return
        try:
            self._call("SetUnitProperties", "sba(sv)", unit, True, properties)
        except DBusError as error:
            cls = NotFound if error.name.endswith(".NoSuchUnit") else FailedPrecondition
            raise cls(f"unable to set unit properties: {error}") from None

    def reset_failed(self, unit: str) -> None:
        """Forget that a unit has failed; one that has not is no error."""
        try:
            self._call("ResetFailedUnit", "s", unit)
        except DBusError:
            return

    def _subscribe(self) -> None:
        """Without it systemd sends no signals; and a bus passes on only what was asked for."""
        if self._subscribed:
            return
        if self._connection.name:
            rule = f"type='signal',sender='{NAME}',interface='{MANAGER}',member='JobRemoved',path='{PATH}'"
            self._connection.call(BUS, BUS_PATH, BUS, "AddMatch", "s", [rule])
        try:
            self._call("Subscribe")
        except DBusError as error:
            if not error.name.endswith(".AlreadySubscribed"):
                raise
        self._subscribed = True

    def _result(self, job: str, what: str) -> str:
        """What JobRemoved(u id, o job, s unit, s result) says of a job."""

        def ours(message: "Message") -> bool:
            body = message.body
            return message.text("member") == "JobRemoved" and len(body) == 4 and body[1] == job

        return str(self._connection.wait(what, ours).body[3])


def _system() -> Connection:
    """The bus; root without one talks to systemd itself."""
    try:
        connection = Connection(os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or SYSTEM_BUS)
    except CutawayError:
        if os.geteuid() != 0:
            raise
        return Connection(PRIVATE)
    return _greeted(connection)


def _user_bus() -> Connection:
    address = os.environ.get("DBUS_SESSION_BUS_ADDRESS", "")
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if not address and runtime and os.path.exists(f"{runtime}/bus"):
        address = f"unix:path={runtime}/bus"
    if not address:
        raise Unavailable("could not detect DBUS_SESSION_BUS_ADDRESS: set it, or XDG_RUNTIME_DIR")
    return _greeted(Connection(address, _host_uid()))


def _greeted(connection: Connection) -> Connection:
    try:
        connection.hello()
    except BaseException:
        connection.close()
        raise
    return connection


def _host_uid() -> int:
    """Who we are outside a user namespace: a bus asks for that, and a map tells (uid_map, first line)."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        for line in file:
            inside, outside, count = map(int, line.split())
            if inside <= os.geteuid() < inside + count:
                return outside + os.geteuid() - inside
    return os.geteuid()
