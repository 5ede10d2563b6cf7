"""What contributors are told is so: rooms, names, commands."""

import re
from pathlib import Path

from fastxai import extend

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def rooms_in(folder: str) -> set[str]:
    return {f"{folder}/{path.parent.name}" for path in (ROOT / folder).glob("*/__init__.py")}


def test_the_layout_names_every_room():
    told = set(re.findall(r"^([\w/]+)/ ", PAGE.split("```")[1], re.M))
    rooms = rooms_in("fastxai") - {"fastxai/core"} | rooms_in("fastxai/core")
    assert told == rooms | {"csrc", "tests", "benchmarks", "examples"}
    assert all((ROOT / place).exists() for place in told)


def test_paths_and_names_are_there():
    for path in re.findall(r"`((?:core|attr|tests|docs|fastxai|benchmarks)/[\w/.]*)`", PAGE):
        assert (ROOT / path).exists() or (ROOT / "fastxai" / path).exists(), path
    idea = PAGE.split("## The one idea")[1].split("A description knows")[0]
    used = set(re.findall(r"(\w+)\(", idea)) - {"f"}
    assert used <= set(extend.__all__), used
    assert PAGE.count("\n") < 100  # one page


def test_commits_are_linted_by_what_make_lint_runs():
    lint = (ROOT / "Makefile").read_text().split("\nlint:")[1].split("\n\n")[0]
    tools = re.findall(r"-m (ruff \w+|mypy)|(lint-imports|clang-format)", lint)
    names = {one or other for one, other in tools}
    assert len(names) == 5
    hooks = re.findall(r"entry: .*?\.venv/bin/(.*)", (ROOT / ".pre-commit-config.yaml").read_text())
    assert all(any(hook.startswith(name) for hook in hooks) for name in names)
    assert len(hooks) == len(names)
