"""`secateur data` says where each data set is, also when something is wrong with it."""

from secateur.data import names


def test_every_data_set_is_listed(secateur):
    result = secateur("data")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in names())
    assert "embedded in scikit-learn" in result.stdout


def test_one_data_set(secateur):
    result = secateur("data", "digits")
    assert result.exit_code == 0
    assert "digits" in result.stdout
    assert "fashion-mnist" not in result.stdout


def test_a_wrong_name_gets_the_nearest(secateur):
    result = secateur("data", "fashion-mnits")
    assert result.exit_code == 2
    assert "did you mean fashion-mnist?" in result.stderr


def test_a_damaged_folder_is_shown_and_does_not_hide_the_rest(secateur, tmp_path):
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(b"")
    result = secateur("data", "--data-dir", tmp_path)
    assert result.exit_code == 0
    assert "damaged" in result.stdout
    assert "embedded in scikit-learn" in result.stdout
    alone = secateur("data", "fashion-mnist", "--data-dir", tmp_path)
    assert alone.exit_code == 1
    assert "expected all four files" in alone.stderr


def test_fetching_what_is_there_checks_it(secateur):
    result = secateur("data", "digits", "--fetch")
    assert result.exit_code == 0
    assert "yes" in result.stdout
