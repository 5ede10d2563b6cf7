"""What type checkers and readers of annotations are told."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow  # half a minute of torch; make lint has the same file
def test_a_type_checker_tells_tensor_from_tuple_and_the_delta(tmp_path):
    pytest.importorskip("mypy")
    file, cache = "tests/types_shown.py", f"--cache-dir={tmp_path}"
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", cache, file]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
