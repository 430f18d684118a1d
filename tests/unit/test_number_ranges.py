"""Numbers out of the specification's ranges are refused by their JSON path, before anything is made."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cutaway.errors import InvalidArgument
from cutaway.oci import runtime_spec
from cutaway.oci.document import decode
from cutaway.oci.runtime_spec import Spec
from cutaway.runc import number_ranges, validate

LINUX: dict[str, Any] = {
    "namespaces": [{"type": kind} for kind in ("mount", "time")],
    "timeOffsets": {"boottime": {"secs": 0, "nanosecs": 0}},
    "resources": {
        "memory": {"limit": 0, "swappiness": 0},
        "cpu": {"shares": 2, "quota": 1000, "period": 1000, "idle": 0},
        "pids": {"limit": 1},
        "blockIO": {
            "weight": 10,
            "weightDevice": [{"major": 1, "minor": 1, "weight": 10}],
            "throttleReadBpsDevice": [{"major": 1, "minor": 1, "rate": 1}],
        },
        "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
        "network": {"classID": 1, "priorities": [{"name": "lo", "priority": 1}]},
        "rdma": {"mlx5_1": {"hcaHandles": 1, "hcaObjects": 1}},
    },
    "seccomp": {
        "defaultAction": "SCMP_ACT_ALLOW",
        "defaultErrnoRet": 1,
        "syscalls": [
            {
                "names": ["x"],
                "action": "SCMP_ACT_ERRNO",
                "errnoRet": 1,
                "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}],
            }
        ],
    },
}


def numbers(value: Any, path: str = "linux") -> list[str]:
    if isinstance(value, dict):
        return [found for key, inner in value.items() for found in numbers(inner, f"{path}.{key}")]
    if isinstance(value, list):
        return [found for at, inner in enumerate(value) for found in numbers(inner, f"{path}[{at}]")]
    return [path] if isinstance(value, int) else []


def spec(linux: dict[str, Any]) -> Spec:
    process = {"args": ["x"], "cwd": "/", "user": {"uid": 0, "gid": 0}}
    config = {"ociVersion": "1.0.2", "root": {"path": "/tmp"}, "process": process, "linux": linux}
    return decode(Spec, config, "config.json:")


def put(path: str, value: int) -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(json.dumps(LINUX))
    at: Any = changed
    keys: list[str | int] = []
    for part in path.split(".")[1:]:
        name, _, index = part.partition("[")
        keys += [name, *([int(index.rstrip("]"))] if index else [])]
    for key in keys[:-1]:
        at = at[key]
    at[keys[-1]] = value
    return changed


def test_within_their_ranges() -> None:
    validate.spec(spec(LINUX), "/")


SIGNED = (".memory.limit", ".pids.limit", ".quota", ".idle", ".secs", ".major", ".minor")


@pytest.mark.parametrize("path", numbers(LINUX))
def test_out_of_range(path: str) -> None:
    value = 1 << 63 if path.endswith(SIGNED) else -1
    with pytest.raises(InvalidArgument) as caught:
        validate.spec(spec(put(path, value)), "/")
    assert path in str(caught.value)
    assert str(value) in str(caught.value)
    assert "expected a number from" in str(caught.value)


def test_every_range_is_of_a_field() -> None:
    for name, ranges in number_ranges.RANGES.items():
        fields = getattr(runtime_spec, name)._fields
        assert set(ranges) & set(fields)
        if ranges is not number_ranges._DEVICE:
            assert set(ranges) <= set(fields)
