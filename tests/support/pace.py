"""How long to wait for anything: longer on a machine that is known to be slow."""

from __future__ import annotations

import os
from typing import Final

# A factor; the machine of `make test-vm`, which is emulated, says 10.
SLOWNESS: Final = float(os.environ.get("CUTAWAY_TEST_SLOWNESS", "1"))
