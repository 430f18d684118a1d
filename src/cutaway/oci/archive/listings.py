"""What archives of images say of their content: an image layout's files, and the one of `docker save`.

Sources: image-spec, image-layout.md and annotations.md; moby's image-spec v1.2; containerd's own annotation.
"""

from typing import Final

from cutaway.oci import document
from cutaway.oci.document import field

LAYOUT: Final = "oci-layout"
INDEX: Final = "index.json"
VERSION: Final = "1.0.0"  # of the layout
FULL_NAME: Final = "io.containerd.image.name"
REF_NAME: Final = "org.opencontainers.image.ref.name"

MANIFEST: Final = "manifest.json"


class Layout(document.Document):
    """oci-layout."""

    image_layout_version: str


class Item(document.Document):
    """An image of manifest.json: files of the archive, and tags."""

    config: str = field(name="Config")
    repo_tags: list[str] | None = field(default=None, name="RepoTags")
    layers: list[str] | None = field(default=None, name="Layers")


class _List(document.Document):
    """The file is a bare list; this gives it a name to decode it by."""

    images: list[Item]


def items(raw: bytes) -> list[Item]:
    """The images of manifest.json. Raises `InvalidArgument`."""
    return document.loads(_List, b'{"images":' + raw + b"}", MANIFEST).images
