"""What one layer may cost, so that a small download cannot fill the machine."""

from __future__ import annotations

from dataclasses import dataclass

from cutaway.errors import ResourceExhausted


@dataclass(frozen=True, slots=True)
class Limits:
    """Generous for real layers: the largest public ones have some 10^6 files and 10^11 bytes."""

    entries: int = 8_000_000
    size: int = 1 << 40
    ratio: int = 250
    """Uncompressed to compressed bytes, beyond `ratio_from` bytes; text compresses about 10 to 1."""
    ratio_from: int = 8 << 30

    def check_entries(self, count: int) -> None:
        """Raises `ResourceExhausted`."""
        if count > self.entries:
            raise ResourceExhausted(f"layer has more than {self.entries} entries")

    def check_bytes(self, uncompressed: int, compressed: int) -> None:
        """Raises `ResourceExhausted`."""
        if uncompressed > self.size:
            raise ResourceExhausted(f"layer is larger than {self.size} bytes")
        if uncompressed > self.ratio_from and uncompressed > self.ratio * compressed:
            raise ResourceExhausted(
                f"layer grows from {compressed} to more than {uncompressed} bytes: "
                "refused as a decompression bomb"
            )
