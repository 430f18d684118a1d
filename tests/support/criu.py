"""The real criu, for tests that save a container: only kernels that it knows let it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support.peers import need, peer


def working_criu() -> Path:
    """criu; the test is skipped where it is not there or cannot work."""
    need("criu")
    program = peer("criu")
    checked = subprocess.run([program, "check"], capture_output=True, text=True, check=False)
    said = (checked.stdout + checked.stderr).strip()
    # Not merely without some features, of which it says each; it may also fail without a word.
    if checked.returncode and (not said or "Could not initialize" in said):
        pytest.skip(f"criu does not work on this kernel: {said.partition(chr(10))[0]}")
    return program
