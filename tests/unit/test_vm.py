"""What `make test-vm` makes of its command line, and how a failure is shown in the machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tools.vm.__main__ import TESTS, arguments, init

from support.peers import PROJECT


def test_arguments_that_name_no_tests_are_added_to_the_list() -> None:
    assert arguments(["-k", "devices"], TESTS) == ["-k", "devices", *TESTS]
    assert arguments([], TESTS) == [*TESTS]
    one = "tests/vm/test_devices.py::test_many_rules"
    assert arguments(["--", "-x", one], TESTS) == ["-x", one]


def test_the_lists_name_what_is_there() -> None:
    assert [name for name in TESTS if not (PROJECT / name).exists()] == []


def test_process_1_is_filled_in() -> None:
    text = init(["-k", "a b"], 60.4)
    assert f"cd {PROJECT}\n" in text
    assert "timeout -s INT 60 python" in text
    assert "-k 'a b'\n" in text
    assert "@" not in text.replace("$@", "")


def test_a_failure_is_shown_before_the_next_test(tmp_path: Path) -> None:
    (tmp_path / "test_two.py").write_text("def test_a():\n    assert 'this' == 'that'\ndef test_b(): pass\n")
    said = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "tools.vm.at_once", "-c", "/dev/null", tmp_path],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    ).stdout
    assert said.index("assert 'this' == 'that'") < said.index("test_b PASSED"), said
