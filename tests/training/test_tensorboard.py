"""TensorBoard logs hold the history, and their absence is explained."""

import sys

import pytest

from secateur.errors import ArtifactError, SecateurError
from secateur.training.tensorboard import TensorBoard

ROWS = [{"epoch": e, "accuracy": 0.8 + 0.01 * e, "num_kept": 100 - e, "note": "text"} for e in (1, 2, 3)]


def test_scalars_are_read_back(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with TensorBoard(tmp_path) as log:
        for row in ROWS:
            log.epoch(row)
    read = event_accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert set(read.Tags()["scalars"]) == {"accuracy", "num_kept"}
    assert [e.step for e in read.Scalars("accuracy")] == [1, 2, 3]
    assert [e.value for e in read.Scalars("num_kept")] == [99, 98, 97]


def test_what_an_interrupted_fit_logged_too_much_is_dropped(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with TensorBoard(tmp_path) as log:
        for row in ROWS:
            log.epoch(row)
    with TensorBoard(tmp_path, resumed_epoch=2) as log:
        log.epoch({"epoch": 3, "accuracy": 0.5})
    read = event_accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert [e.value for e in read.Scalars("accuracy")][-1] == 0.5
    assert [e.step for e in read.Scalars("accuracy")] == [1, 2, 3]


def test_a_missing_package_is_named_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(SecateurError, match=r"pip install 'secateur\[tensorboard\]'"):
        TensorBoard(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_noticed_before_anything_is_written(fit, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(SecateurError, match="expected the tensorboard package"):
        fit(out=tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()


def test_logs_do_not_go_where_a_planted_link_points(tmp_path):
    pytest.importorskip("tensorboard")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "tensorboard").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="expected a directory for logs, got a link"):
        TensorBoard(tmp_path / "tensorboard")
    assert not list((tmp_path / "elsewhere").iterdir())
