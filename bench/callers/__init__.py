"""Processes that call a runtime as a shim does: `warm` as ours does, `executed` as any other shim does.

Each is started as `python -m bench.callers.NAME RUNTIME ROOT BUNDLE ROUND` and makes one round of
calls for every line that it reads; it answers with one line of JSON: seconds, or bytes, by what was measured.
"""
