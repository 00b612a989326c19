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
