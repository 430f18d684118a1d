"""The pull's small parts: containerd's codes as our errors, chain IDs, bars, locks."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest

from cutaway import errors
from cutaway.engine.containerd_errors import CLASS_OF_CODE, from_rpc
from cutaway.engine.images.locks import KeyedLocks
from cutaway.engine.images.progress import Event, LayerProgress
from cutaway.oci.chain import chain_ids
from cutaway.oci.image_spec import OCI_LAYER_GZIP, Descriptor


def test_every_code_has_a_class_and_every_class_a_code() -> None:
    assert set(CLASS_OF_CODE) == set(grpc.StatusCode) - {grpc.StatusCode.OK}
    assert set(CLASS_OF_CODE.values()) == set(errors.all_classes())


@pytest.mark.parametrize(
    ("code", "details", "kind", "said"),
    [
        (grpc.StatusCode.NOT_FOUND, 'image "x": not found', errors.NotFound, 'image "x": not found'),
        (grpc.StatusCode.INTERNAL, "", errors.Unknown, "internal"),
        (
            grpc.StatusCode.UNAVAILABLE,
            "no such socket",
            errors.Unavailable,
            "containerd at /run/c.sock does not answer: no such socket",
        ),
    ],
)
def test_texts(code: grpc.StatusCode, details: str, kind: type[errors.CutawayError], said: str) -> None:
    none = grpc.aio.Metadata()
    error = from_rpc(grpc.aio.AioRpcError(code, none, none, details=details), "/run/c.sock")
    assert (type(error), str(error)) == (kind, said)


def test_chain_ids() -> None:
    # The example values of image-spec's config.md, by its own rule.
    first, second = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
    assert chain_ids([]) == ()
    assert chain_ids([first]) == (first,)
    assert chain_ids([first, second]) == (
        first,
        "sha256:ccd722928bd92476ba1745586fed6e45a102504185ad88cd89e01ff116fd146c",
    )


def test_progress_has_dockers_form() -> None:
    events: list[Event] = []
    layer = Descriptor(media_type=OCI_LAYER_GZIP, digest=f"sha256:{'c' * 64}", size=2_000_000)
    progress = LayerProgress(layer, events.append)
    progress.say("Pulling fs layer")
    progress.downloading(500_000)
    progress.downloading(600_000)  # too soon after the last
    progress.downloading(2_000_000)  # but the end is always told
    assert events == [
        {"status": "Pulling fs layer", "progressDetail": {}, "id": "c" * 12},
        {
            "status": "Downloading",
            "progressDetail": {"current": 500_000, "total": 2_000_000},
            "progress": f"[{'=' * 12}>{' ' * 38}]    500kB/2MB",
            "id": "c" * 12,
        },
        {
            "status": "Downloading",
            "progressDetail": {"current": 2_000_000, "total": 2_000_000},
            "progress": f"[{'=' * 50}>]      2MB/2MB",
            "id": "c" * 12,
        },
    ]


def test_locks_exclude_by_key_and_leave_nothing() -> None:
    async def main() -> None:
        locks, order = KeyedLocks(), list[str]()

        async def hold(key: str, name: str) -> None:
            async with locks.of(key):
                order.append(f"{name} in")
                await asyncio.sleep(0)
                order.append(f"{name} out")

        await asyncio.gather(hold("a", "1"), hold("a", "2"), hold("b", "3"))
        assert order.index("1 out") < order.index("2 in")
        assert order.index("3 in") < order.index("1 out")
        assert not locks._locks

    asyncio.run(main())
