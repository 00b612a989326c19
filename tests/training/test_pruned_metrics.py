import pytest
import torch

from secateur import Posterior
from secateur.reduction import delta_f
from secateur.training.pruned_metrics import evidence_of_removal, shift_epochs


def test_rows_go_on_counting_and_the_given_ones_stay():
    rows = [{"epoch": 1, "accuracy": 0.5}, {"epoch": 2, "accuracy": 0.6}]
    assert shift_epochs(rows, 50) == [{"epoch": 51, "accuracy": 0.5}, {"epoch": 52, "accuracy": 0.6}]
    assert rows[0]["epoch"] == 1


def test_only_what_goes_now_counts_as_evidence():
    mean = {"weight": torch.tensor([0.0, 0.1, 2.0]), "bias": torch.tensor([0.3])}
    before = Posterior(
        mean,
        {name: torch.full_like(value, 25.0) for name, value in mean.items()},
        {name: torch.tensor(1.0) for name in mean},
        keep={"weight": torch.tensor([False, True, True])},
    )
    evidence = evidence_of_removal(before, {"weight": torch.tensor([False, False, True])})
    expected = delta_f(torch.tensor(0.1), torch.tensor(25.0), prior_precision=1.0)
    assert evidence == {"weight": pytest.approx(float(expected)), "bias": 0.0}
