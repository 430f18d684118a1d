"""SHA-256 by the interpreter's own module.

hashlib brings OpenSSL: its loading takes milliseconds, and its pages and mappings make every fork of
whoever has loaded it slower.
"""

import sys


def sha256(data: bytes) -> bytes:
    """The digest, 32 bytes."""
    try:
        module = __import__("_sha2" if sys.hexversion >= 0x030C0000 else "_sha256")
    except ImportError:  # an interpreter built without it
        module = __import__("hashlib")
    digest: bytes = module.sha256(data).digest()
    return digest
