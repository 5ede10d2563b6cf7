"""What docs/public.md promises is there, and says what it is."""

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

import fastxai

PAGE = (Path(__file__).parents[1] / "docs" / "public.md").read_text()
MODULES = re.findall(r"^\| `(fastxai[.\w]*)` \|", PAGE, re.M)
PUBLIC = [(module, name) for module in MODULES for name in import_module(module).__all__]


def test_the_page_tells_of_all_public_modules():
    rooms = [module.removeprefix("fastxai.") for module in MODULES]
    assert rooms == [
        "fastxai",
        "attr",
        "metrics",
        "importance",
        "deploy",
        "plot",
        "shap",
        "lime",
        "extend",
    ]
    internal = PAGE.split("Internal")[1].split(";")[0]
    packages = {f"fastxai.{p.parent.name}" for p in Path(fastxai.__path__[0]).glob("*/__init__.py")}
    assert packages == {*MODULES[1:-1], *re.findall(r"`(fastxai\.\w+)`", internal)}


@pytest.mark.parametrize("module", MODULES)
def test_names_are_there_and_in_order(module):
    names = import_module(module).__all__
    assert sorted(names) == names and len(set(names)) == len(names)
    assert all(hasattr(import_module(module), name) for name in names)


def first_sentence(docstring: str) -> str:
    """Its first paragraph, which is one sentence or a few."""
    return " ".join(inspect.cleandoc(docstring).split("\n\n")[0].split())


@pytest.mark.parametrize(("module", "name"), PUBLIC)
def test_what_is_public_says_what_it_is(module, name):
    thing = getattr(import_module(module), name)
    said = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__  # not another's
    assert said, "no docstring"
    assert not said.startswith(f"{name}("), "what a dataclass says by itself"
    sentence = first_sentence(said)
    assert sentence[0].isupper() and sentence.endswith("."), sentence


CLASSES = {
    getattr(import_module(module), name)
    for module, name in PUBLIC
    if module != "fastxai.extend" and inspect.isclass(getattr(import_module(module), name))
}
METHODS = [
    (str(kind), name)
    for kind in sorted(CLASSES, key=str)
    for name, value in inspect.getmembers(kind, inspect.isroutine)
    if not name.startswith("_") and str(getattr(value, "__module__", None)).startswith("fastxai")
]


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_public_methods_say_what_they_do_and_take(kind, name):
    """Where another class is pointed to, a few words say what is meant."""
    method = getattr(next(c for c in CLASSES if str(c) == kind), name)
    said = inspect.getdoc(method)  # of the class above, if it is the same
    assert said, "no docstring"
    sentence = first_sentence(said)
    assert sentence[0].isupper() and sentence.endswith("."), sentence
    only_points = r"^ +\*{0,2}[\w, ]+: as (for )?:\w+:|^ +As :\w+:"
    assert not re.search(only_points, said, re.M), re.search(only_points, said, re.M)[0]
