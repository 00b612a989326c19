from secateur.training.pruned_metrics import shift_epochs


def test_rows_go_on_counting_and_the_given_ones_stay():
    rows = [{"epoch": 1, "accuracy": 0.5}, {"epoch": 2, "accuracy": 0.6}]
    assert shift_epochs(rows, 50) == [{"epoch": 51, "accuracy": 0.5}, {"epoch": 52, "accuracy": 0.6}]
    assert rows[0]["epoch"] == 1
