"""What the README shows must run as it stands."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_examples_run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for example in re.findall(r"```python\n(.*?)```", README.read_text(), re.S):
        exec(example, names)
    assert names["attributions"].shape == (3, 30) and names["delta"].shape == (3,)  # of a package
    assert names["words"].shape == (4, 12)
    assert names["values"].shape == (8, 2, 30)
    assert "Explanation(Integrated Gradients: values (8, 30)" in capsys.readouterr().out
