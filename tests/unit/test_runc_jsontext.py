"""JSON without the json package says and reads what json does."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutaway.errors import InvalidArgument
from cutaway.oci import jsontext
from cutaway.oci.document import Document, loads

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_written_is_what_json_would_write(value: object) -> None:
    assert jsontext.dumps(value) == json.dumps(value, separators=(",", ":"), ensure_ascii=False)


@given(VALUES)
def test_what_json_writes_is_read_back(value: object) -> None:
    assert jsontext.loads(json.dumps(value, indent=1)) == value


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_as_by_json(text: str) -> None:
    try:
        expected = json.loads(text, parse_constant=lambda name: pytest.fail(name) if name else None)
    except ValueError:
        with pytest.raises(ValueError):  # json's messages are not ours to promise
            jsontext.loads(text)
    except pytest.fail.Exception:
        with pytest.raises(ValueError, match="not JSON"):
            jsontext.loads(text)
    else:
        assert jsontext.loads(text) == expected


@pytest.mark.parametrize(
    "text", ["", "{", "[1,]", "nul", "1 2", "NaN", "-Infinity", '"\x01"', b"\xff", "[" * 10**6]
)
def test_a_document_of_bad_text_is_refused_in_one_line(text: str | bytes) -> None:
    with pytest.raises(InvalidArgument, match=r"^body: ") as caught:
        loads(Document, text, "body")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, object(), {"a": object()}])
def test_what_has_no_form_in_json_is_not_written(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        jsontext.dumps(value)


def test_errors_are_worded_without_json_having_been_imported() -> None:
    """Its absence is the very point, and the C scanner of older Pythons relies on its presence for errors."""
    code = (
        "import sys; from cutaway.oci import jsontext; assert 'json' not in sys.modules\n"
        "try: jsontext.loads('{')\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("Expecting property name")
