"""Generate src/cutaway/pb/*_pb2.py and .pyi from proto/cutaway/pb/*.proto.

Only messages and descriptors are generated: cutaway.pb.service derives the
services from the descriptors, so there are no gRPC stubs. The grpcio-tools
version decides which protobuf runtime the generated code asks for.
"""

from __future__ import annotations

import argparse
import importlib.resources
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO_ROOT = ROOT / "proto"
SOURCE_ROOT = ROOT / "src"
PACKAGE = Path("cutaway") / "pb"
PATTERNS = ("*_pb2.py", "*_pb2.pyi")
# protoc's stubs name Mapping without its type arguments, which mypy --strict rejects.
STUB_HEADER = b'# mypy: disable-error-code="type-arg"\n'


def generate(output: Path) -> None:
    """Run protoc over every .proto file, writing below ``output``."""
    try:
        from grpc_tools import protoc
    except ImportError:
        sys.exit("generate_protos: grpcio-tools is not installed")
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    sources = sorted(str(path) for path in (PROTO_ROOT / PACKAGE).glob("*.proto"))
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={PROTO_ROOT}",
            f"--proto_path={well_known}",
            f"--python_out={output}",
            f"--pyi_out={output}",
            *sources,
        ]
    )
    if status != 0:
        sys.exit(f"generate_protos: protoc failed with status {status}")
    for stub in (output / PACKAGE).glob("*.pyi"):
        stub.write_bytes(STUB_HEADER + stub.read_bytes())


def contents(directory: Path) -> dict[str, bytes]:
    """Return the generated files of ``directory`` by name."""
    return {path.name: path.read_bytes() for pattern in PATTERNS for path in directory.glob(pattern)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Generate the protobuf modules of cutaway.pb.")
    parser.add_argument(
        "--check",
        action="store_true",
        help="change nothing; fail if the files in the tree are not what would be generated",
    )
    arguments = parser.parse_args()
    target = SOURCE_ROOT / PACKAGE
    with tempfile.TemporaryDirectory() as directory:
        generate(Path(directory))
        fresh = contents(Path(directory) / PACKAGE)
        present = contents(target)
        if arguments.check:
            stale = sorted(
                name for name in fresh.keys() | present.keys() if fresh.get(name) != present.get(name)
            )
            if stale:
                sys.exit(f"generate_protos: out of date: {', '.join(stale)}")
            return
        for name in present.keys() - fresh.keys():
            (target / name).unlink()
        for name in fresh:
            shutil.copyfile(Path(directory) / PACKAGE / name, target / name)


if __name__ == "__main__":
    main()
