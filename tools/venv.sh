#!/bin/sh
# Make .venv with the locked dependencies and Cutaway itself: `tools/venv.sh [dev]`.
# Idempotent: a second call with unchanged lock files only takes a moment.
set -eu
cd "$(dirname "$0")/.."
lock=requirements.lock
[ "${1:-}" = dev ] && lock=requirements-dev.lock

python=
for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "cutaway: needs Python 3.11 or newer; set PYTHON=/path/to/python3" >&2
    exit 1
fi

wanted=$(cat pyproject.toml requirements.lock "$lock" | sha256sum | cut -d' ' -f1)
stamp=.venv/.cutaway-$lock
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    if ! [ -x .venv/bin/pip ]; then
        # Debian and Ubuntu ship venv apart from python3, without ensurepip the first try fails.
        if ! "$python" -m venv .venv >/dev/null 2>&1; then
            echo "cutaway: installing python3-venv, which this Python lacks" >&2
            version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
            (apt-get -qq update && apt-get -qq install -y --no-install-recommends "$version-venv") >&2
            rm -rf .venv
            "$python" -m venv .venv
        fi
    fi
    echo "cutaway: installing into .venv" >&2
    .venv/bin/pip install --quiet --disable-pip-version-check -r "$lock"
    .venv/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
    echo "$wanted" >"$stamp"
fi
# An editable install is not compiled by pip, and where bytecode may not be written at run time
# (PYTHONDONTWRITEBYTECODE) every start would compile anew.
.venv/bin/python -m compileall -q src
