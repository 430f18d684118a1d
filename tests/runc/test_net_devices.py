"""Network devices moved into the container, as runtime-spec 1.3 and runc 1.4 have it; runc 1.1.5 does not."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from runc.bundles import Bundle, Result, Runtime
from runc.test_namespaces import map_ids
from support.netns import NetNs

pytestmark = [pytest.mark.root, pytest.mark.peers]


@pytest.fixture
def host() -> Iterator[NetNs]:
    """What the runtime takes for the host: a namespace with a device that is up and has addresses."""
    with NetNs() as netns:
        for words in (
            "link add dev0 type veth peer name peer0",
            "link set peer0 up",
            "link set dev0 address 02:00:00:00:00:07 mtu 1400 up",
            "addr add 192.0.2.7/24 brd + dev dev0",
            "addr add 192.0.2.8 peer 192.0.2.9 dev dev0",
            "addr add 2001:db8::7/64 dev dev0 nodad",
            "addr add 198.51.100.77/24 scope link dev dev0",
            "addr add 203.0.113.78/24 valid_lft 1000 preferred_lft 1000 dev dev0",
        ):
            netns.run(["ip", *words.split()])
        yield netns


def addresses(text: str) -> set[str]:
    """What `ip -o addr` says a device has, its own link-local address left out."""
    words = [line.split() for line in text.splitlines()]
    found = {" ".join(line[2 : line.index("scope")]) for line in words if "scope" in line}
    return {each for each in found if not each.startswith("inet6 fe80")}


KEPT = {
    "inet 192.0.2.7/24 brd 192.0.2.255",
    "inet 192.0.2.8 peer 192.0.2.9/32",
    "inet6 2001:db8::7/64",
}


def run(host: NetNs, runtime: Runtime, bundle: Bundle, name: str) -> Result:
    return host.call(runtime, "run", "--bundle", bundle, name)


def devices(bundle: Bundle, **wanted: str) -> Bundle:
    bundle.linux["netDevices"] = {old: {"name": new} if new else {} for old, new in wanted.items()}
    return bundle


def on_host(host: NetNs) -> dict[str, dict[str, Any]]:
    """The host's devices, as `ip -json` tells."""
    found = json.loads(host.run(["ip", "-json", "addr"]).stdout)
    return {each["ifname"]: each for each in found}


@pytest.mark.parametrize(("new", "inside"), [("", "dev0"), ("eth7", "eth7"), ("net%d", "net0")])
@pytest.mark.parametrize("mapped", [False, True])
def test_a_device_comes_with_its_lasting_addresses(
    ours: Runtime, bundle: Bundle, name: str, host: NetNs, new: str, inside: str, mapped: bool
) -> None:
    place = f"/sys/class/net/{inside}"
    bundle.shell(f"busybox ip -o addr show {inside}; cat {place}/address {place}/mtu {place}/flags")
    if mapped:
        map_ids(bundle)
    result = run(host, ours, devices(bundle, dev0=new), name)
    assert (result.code, result.err) == (0, "")
    assert addresses(result.out) == KEPT
    mac, mtu, flags = result.out.splitlines()[-3:]
    assert (mac, mtu, int(flags, 16) & 1) == ("02:00:00:00:00:07", "1400", 1)
    assert "dev0" not in on_host(host)


def test_it_stays_in_a_namespace_that_outlives_the_container(
    ours: Runtime, bundle: Bundle, name: str, host: NetNs
) -> None:
    with NetNs() as other:
        bundle.namespace("network", os.fspath(other.path))
        result = run(host, ours, devices(bundle, dev0="eth7"), name)
        assert (result.code, result.err) == (0, "")
        assert "eth7" in on_host(other)


def test_a_failed_create_gives_the_device_back(ours: Runtime, bundle: Bundle, name: str, host: NetNs) -> None:
    before = on_host(host)["dev0"]
    bundle.process["args"] = ["/no/program"]
    result = run(host, ours, devices(bundle, dev0="eth7"), name)
    assert result.code == 1
    assert "no such file or directory" in result.error
    after = on_host(host)["dev0"]
    assert after["flags"] == before["flags"]
    kept = {each["local"] for each in after["addr_info"] if not each["local"].startswith("fe80")}
    assert kept == {"192.0.2.7", "192.0.2.8", "2001:db8::7"}


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ({"none0": ""}, "link not found for interface none0 on runtime namespace: Link not found"),
        ({"lo": "eth0"}, "invalid argument"),
        ({"dev0": "lo"}, "file exists"),
    ],
)
def test_what_cannot_be_moved_is_left_as_it_was(
    ours: Runtime, bundle: Bundle, name: str, host: NetNs, wanted: dict[str, str], why: str
) -> None:
    before = on_host(host)
    result = run(host, ours, devices(bundle, **wanted), name)
    assert result.code == 1
    assert result.error.startswith(
        "runc run failed: unable to start container process: unable to move network"
    )
    assert result.error.endswith(why)
    after = on_host(host)
    assert {name: each["flags"] for name, each in after.items()} == {
        name: each["flags"] for name, each in before.items()
    }
    assert len(after["dev0"]["addr_info"]) == len(before["dev0"]["addr_info"])


@pytest.mark.parametrize("bad", [".", "..", "a/b", "a b", "a:b", "sixteen-letters-"])
def test_names_that_no_device_can_have(
    ours: Runtime, bundle: Bundle, name: str, host: NetNs, bad: str
) -> None:
    result = run(host, ours, devices(bundle, dev0=bad), name)
    assert f'invalid network device name "{bad}" (linux.netDevices.dev0.name: ' in result.error


def test_without_a_network_namespace_of_its_own(
    ours: Runtime, bundle: Bundle, name: str, host: NetNs
) -> None:
    bundle.linux["namespaces"] = [each for each in bundle.linux["namespaces"] if each["type"] != "network"]
    result = run(host, ours, devices(bundle, dev0=""), name)
    assert result.error.startswith("runc run failed: unable to move network devices without a NET namespace")
