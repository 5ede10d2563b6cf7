import pytest
import torch

from fastxai.core.checks import ArgumentError
from fastxai.core.estimate.tiers import best_tier, check_tier

CPU, GPU = torch.device("cpu"), torch.device("cuda")
RESNET, TABULAR = 1.8e9, 6e3


@pytest.mark.parametrize(
    ("players", "n_samples", "outputs", "work", "device", "expected"),
    [
        (49, 5 * 49, 1, RESNET, CPU, "accurate"),
        (49, 5 * 49, 1000, RESNET, CPU, "shared"),  # a fit for each output would be too dear
        (49, 800, 1, RESNET, CPU, "accurate"),
        (49, 802, 1, RESNET, CPU, "shared"),
        (49, 100_000, 1, RESNET, CPU, "fast"),
        (49, 2 * 49 + 4, 1, RESNET, CPU, "fast"),  # too few for the regression
        (7, 128, 1, RESNET, CPU, "fast"),  # all coalitions
        (7, 127, 1, RESNET, CPU, "accurate"),
        (30, 512, 1, TABULAR, CPU, "fast"),
        (30, 512, 1, 0, CPU, "fast"),
        (30, 240, 1, 1e7, CPU, "accurate"),
        (30, 240, 50, 1e7, CPU, "shared"),
        (30, 2000, 1, 1e7, CPU, "fast"),
        (49, 5 * 49, 1, RESNET, GPU, "accurate"),
        (49, 5 * 49, 1, RESNET / 50, CPU, "accurate"),
        (49, 5 * 49, 1, RESNET / 50, GPU, "fast"),  # the fit is done on the CPU
    ],
)
def test_the_most_accurate_that_is_worth_its_work(
    players, n_samples, outputs, work, device, expected
):
    assert best_tier(players, n_samples, outputs, n_samples, work, device) == expected


def test_background_rows_are_work_of_the_model():
    assert best_tier(30, 240, 1, 240, 1e6, CPU) == "fast"
    assert best_tier(30, 240, 1, 240 * 100, 1e6, CPU) == "accurate"


def test_names_are_checked():
    assert [check_tier(tier) for tier in (None, "shared")] == [None, "shared"]
    for bad in ("exact", 1, ["fast"]):
        with pytest.raises(ArgumentError, match="tier: expected None or one of fast, shared, acc"):
            check_tier(bad)
