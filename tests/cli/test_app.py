"""What all commands share: help with an example, the version, exit codes, one-line errors."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from secateur import __version__
from secateur.cli import main
from secateur.cli.failures import ExitCodes
from secateur.errors import DataError, UsageError

COMMANDS = (
    "fit",
    "evaluate",
    "prune",
    "prune-trained",
    "compact",
    "export",
    "bench",
    "compare",
    "report",
    "data",
)


def installed(*words, **environment):
    command = Path(sys.executable).with_name("secateur")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SECATEUR")}
    return subprocess.run(
        [command, *map(str, words)], capture_output=True, text=True, env=kept | environment, check=False
    )


def test_version(secateur):
    result = secateur("--version")
    assert result.exit_code == 0
    assert result.stdout == f"secateur {__version__}\n"


def test_help_names_every_command(secateur):
    result = secateur("--help")
    assert result.exit_code == 0
    assert all(command in result.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_shows_an_example(secateur, command):
    result = secateur(command, "--help")
    assert result.exit_code == 0
    assert f"Example: secateur {command} " in result.stdout
    for leaked in ("Args:", "Raises:", "`"):
        assert leaked not in result.stdout


@pytest.mark.parametrize("words", [(), ("prnue",), ("--nonsense",), ("report",), ("fit", "lenet")])
def test_wrong_usage_exits_with_2(secateur, words):
    assert secateur(*words).exit_code == 2


def failing(error):
    app = typer.Typer(cls=ExitCodes, pretty_exceptions_enable=False)

    @app.callback()
    def shared(debug: bool = False) -> None:
        pass

    @app.command()
    def fail() -> None:
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DataError("expected one,\n  got two"), 1, "Error: expected one, got two\n"),
        (UsageError("no such thing"), 2, "Error: no such thing\n"),
        (KeyboardInterrupt(), 1, "Error: interrupted\n"),
        (
            DataError("got \x1b[31mred\u202e"),
            1,
            "Error: got \N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}\n",
        ),
    ],
)
def test_errors_are_one_line_on_stderr_with_their_code(error, code, said):
    result = CliRunner().invoke(failing(error), ["fail"])
    assert result.exit_code == code
    assert result.stderr == said
    assert result.stdout == ""


@pytest.mark.parametrize("command", ["fit", "compact", "compare"])
def test_words_that_are_not_utf_8_are_refused_at_the_start(secateur, monkeypatch, tmp_path, command):
    monkeypatch.chdir(tmp_path)
    result = secateur(command, "mlp", "digits", "--out", os.fsdecode(b"run-\xff"))
    assert result.exit_code == 2
    assert result.stderr == "Error: expected words in UTF-8, got 'run-\\udcff'; choose another name\n"
    assert not list(tmp_path.iterdir())


def test_debug_shows_where_an_error_comes_from():
    result = CliRunner().invoke(failing(DataError("x")), ["--debug", "fail"])
    assert isinstance(result.exception, DataError)


class TestInstalledCommand:
    def test_a_report_is_written(self, run_dir):
        done = installed("report", run_dir)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.strip() == str(run_dir / "report.html")
        assert (run_dir / "report.html").is_file()

    def test_output_that_cannot_express_a_character_gets_another(self, run_dir):
        done = installed("bench", "--help", PYTHONIOENCODING="ascii")
        assert (done.returncode, done.stderr) == (0, "")
        assert "Example: secateur bench" in done.stdout

    def test_a_failure_is_one_line(self, tmp_path):
        done = installed("report", tmp_path)
        assert done.returncode == 1
        assert re.fullmatch(r"Error: [^\n]*config\.json[^\n]*\n", done.stderr)


def test_an_error_nobody_foresaw_is_one_line_too(monkeypatch, capsys):
    def defect() -> None:
        raise KeyError("lost")

    monkeypatch.setattr(sys.modules["secateur.cli.app"], "app", defect)
    monkeypatch.delenv("SECATEUR_DEBUG", raising=False)
    with pytest.raises(SystemExit) as ending:
        main()
    assert ending.value.code == 1
    assert capsys.readouterr().err.startswith("Error: KeyError: 'lost' (not one of Secateur's own errors;")
    monkeypatch.setenv("SECATEUR_DEBUG", "1")
    with pytest.raises(KeyError):
        main()


@pytest.mark.parametrize("words", [("compact",), ("export", "--to", "onnx"), ("bench",), ("prune",)])
def test_a_run_that_is_not_there(secateur, tmp_path, words):
    result = secateur(words[0], tmp_path / "none", *words[1:])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert "expected a finished run" in result.stderr
