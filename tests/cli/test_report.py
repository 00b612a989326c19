"""`secateur report` writes the page again and says where."""


def test_the_report_is_written_and_its_path_printed(secateur, run_dir):
    result = secateur("report", run_dir)
    assert result.exit_code == 0
    assert result.stdout.strip() == str(run_dir / "report.html")
    assert "<!doctype html>" in (run_dir / "report.html").read_text()


def test_a_damaged_run_is_named(secateur, run_dir):
    (run_dir / "metrics.json").write_text("{}")
    result = secateur("report", run_dir)
    assert result.exit_code == 1
    assert "metrics.json is damaged" in result.stderr
    assert not (run_dir / "report.html").exists()


def test_the_directory_of_a_comparison_gets_its_page(secateur, tmp_path, write_run):
    write_run(tmp_path / "runs" / "one", shapes={"dense": (3, 4), "output": (2, 3)}, num_epochs=2)
    result = secateur("report", tmp_path)
    assert result.exit_code == 0
    assert result.stdout.strip() == str(tmp_path / "comparison.html")
    assert "drawing lenet-fashion-mnist" in result.stderr
    assert "1 method compared: LeNet on Fashion-MNIST" in (tmp_path / "comparison.html").read_text()


def test_a_directory_that_is_neither_is_refused(secateur, tmp_path):
    result = secateur("report", tmp_path)
    assert result.exit_code == 1
    assert "config.json" in result.stderr
