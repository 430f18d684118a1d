"""Port specifications: `[[ip:]hostPort[-end]:]containerPort[-end][/protocol]`."""

from cutaway.errors import InvalidArgument

PROTOCOLS = ("tcp", "udp", "sctp")


def publish(specs: list[str]) -> "tuple[dict[str, dict[str, str]], dict[str, list[dict[str, str]]]]":
    """ExposedPorts and PortBindings for `-p`. Raises `InvalidArgument` in docker's words."""
    ports: dict[str, dict[str, str]] = {}
    bindings: dict[str, list[dict[str, str]]] = {}
    for spec in specs:
        for port, binding in _parse(spec):
            ports[port] = {}
            bindings.setdefault(port, []).append(binding)
    return ports, bindings


def exposed(specs: list[str]) -> list[str]:
    """Ports for `--expose`: `80`, `80/udp`, `8000-8010`."""
    found: list[str] = []
    for spec in specs:
        if ":" in spec:
            raise InvalidArgument(f"invalid port format for --expose: {spec}")
        text, _, protocol = spec.partition("/")
        found += [
            f"{port}/{_protocol(protocol)}"
            for port in _range(text, f"invalid range format for --expose: {spec}")
        ]
    return found


def _parse(spec: str) -> "list[tuple[str, dict[str, str]]]":
    address, host_text, container_text, protocol = _split(spec)
    if not container_text:
        raise InvalidArgument(f"No port specified: {spec}<empty>")
    container = _range(container_text, f"Invalid containerPort: {container_text}")
    host = _range(host_text, f"Invalid hostPort: {host_text}") if host_text else []
    if host and len(host) != len(container):
        if len(container) > 1:
            raise InvalidArgument(
                f"Invalid ranges specified for container and host Ports: {container_text} and {host_text}"
            )
        host_names = [host_text]  # a range of host ports for one port: the daemon picks
    else:
        host_names = [str(port) for port in host] or [""] * len(container)
    return [
        (f"{port}/{protocol}", {"HostIp": address, "HostPort": name})
        for port, name in zip(container, host_names, strict=True)
    ]


def _split(spec: str) -> tuple[str, str, str, str]:
    """Address, host port, container port, protocol."""
    rest, _, protocol = spec.partition("/")
    head, _, container = rest.rpartition(":")
    if head.startswith("["):
        address, _, host = head[1:].partition("]")
        return address, host.lstrip(":"), container, _protocol(protocol)
    address, _, host = head.rpartition(":")
    if address.count(":") or (address and address.strip("0123456789.")):
        raise InvalidArgument(f"Invalid ip address: {address}")
    return address, host, container, _protocol(protocol)


def _protocol(text: str) -> str:
    protocol = (text or "tcp").lower()
    if protocol not in PROTOCOLS:
        raise InvalidArgument(f"Invalid proto: {text}")
    return protocol


def _range(text: str, problem: str) -> list[int]:
    first, dash, last = text.partition("-")
    last = last if dash else first
    if not (first.isdecimal() and last.isdecimal() and first.isascii() and last.isascii()):
        raise InvalidArgument(problem)
    start, end = int(first), int(last)
    if end < start or end > 65535:
        raise InvalidArgument(problem)
    return list(range(start, end + 1))
