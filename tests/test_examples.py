"""The examples run as they stand, find what they should, and draw it."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "examples"
SENTENCES = Path(sys.prefix) / "vaderSentiment-3.3.2.tar.gz"  # where the Makefile puts them


@pytest.fixture
def example(request, monkeypatch) -> ModuleType:
    """The script, beside which others are found as if it had been started."""
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(FOLDER)
    name = request.param
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as missing:
        pytest.skip(f"{missing.name} is not installed")
    return module


def example_of(name: str):
    return pytest.mark.parametrize("example", [name], indirect=True)


def check_picture(path: Path) -> None:
    from matplotlib.image import imread

    picture = imread(path)[..., :3]
    coloured = np.ptp(picture, axis=2) > 0.2  # neither paper nor ink
    assert min(picture.shape[:2]) > 250 and coloured.mean() > 0.002


@example_of("tabular_net")
def test_tabular_net(example, tmp_path):
    found = example.main(tmp_path)
    exact, path, sampled = found["exact"], found["path"], found["sampled"]
    np.testing.assert_allclose(
        exact.values.sum(1), exact.outputs - exact.baseline_outputs, atol=1e-3
    )
    assert abs(path.convergence_delta).max() < 0.01
    largest = np.argsort(-abs(exact.values).mean(0))[:2]
    assert {exact.feature_names[i] for i in largest} == {"body mass index", "log triglycerides"}
    assert (sampled.standard_errors < 10).all() and (sampled.standard_errors > 0).any()
    check_picture(tmp_path / "tabular_net.png")


@pytest.mark.slow
@example_of("credit")
def test_credit(example, tmp_path):
    found = example.main(tmp_path)
    assert set(found) == {"scikit-learn", "LightGBM"}
    for explained in found.values():
        outputs = explained.outputs - explained.baseline_outputs
        np.testing.assert_allclose(explained.values.sum(1), outputs, atol=1e-9)
        names = explained.feature_names
        largest = np.argsort(-abs(explained.values).mean(0))[:4]
        assert {"Income", "Amount"} <= {names[i] for i in largest}
        records = explained.data[:, names.index("Records")] == "yes"
        assert explained.values[records, names.index("Records")].min() > 0
    for name in ("credit", "credit_shap"):
        check_picture(tmp_path / f"{name}.png")


@pytest.mark.slow
@example_of("image")
def test_image(example, tmp_path):
    found = example.main(tmp_path)
    assert all(int(one.target) == 652 for one in found.values())  # "military uniform"
    squares = found["KernelShap"].values[0, 0, :: example.SQUARE, :: example.SQUARE]
    whole = found["KernelShap"].outputs - found["KernelShap"].baseline_outputs
    np.testing.assert_allclose(squares.sum(), whole.item(), rtol=1e-3)
    assert squares[:, 1:4].sum() > squares[:, [0, 4]].sum()  # the admiral, not the wall
    check_picture(tmp_path / "image.png")


@pytest.mark.slow
@example_of("sentiment")
def test_sentiment(example, tmp_path):
    if not SENTENCES.exists():
        pytest.skip(f"{SENTENCES.name} is not there: make demo-text")
    found = example.main(SENTENCES, tmp_path)
    shap = found["KernelShap"]
    np.testing.assert_allclose(
        shap.values.sum(1), shap.outputs - shap.baseline_outputs, rtol=1e-4, atol=1e-4
    )
    assert shap.players.tolist() == (shap.values != 0).sum(1).tolist()  # the words alone
    assert shap.outputs.argmax() != 1  # "The plot is dull."
    check_picture(tmp_path / "sentiment.png")
