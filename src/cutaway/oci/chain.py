"""Chain IDs: what a layer is called together with all below it.

Source: image-spec "config.md" (ChainID).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def chain_ids(diff_ids: Sequence[str]) -> tuple[str, ...]:
    """The chain ID of each layer: the first one's diff ID, then the digest of "parent diff-id"."""
    chain: list[str] = []
    for diff_id in diff_ids:
        parent = f"{chain[-1]} " if chain else ""
        digest = hashlib.sha256(f"{parent}{diff_id}".encode()).hexdigest() if parent else ""
        chain.append(f"sha256:{digest}" if parent else diff_id)
    return tuple(chain)
