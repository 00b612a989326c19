"""The script that asks the operating system for Fashion-MNIST, on make-believe machines; it never fails."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "install-fashion-mnist.sh"
pytestmark = pytest.mark.skipif(shutil.which("sh") is None, reason="no POSIX shell here")


class Machine:
    """A folder of commands that is all the script can see; each call is written to a log."""

    def __init__(self, root: Path) -> None:
        self.commands, self.log, self.folder = root / "bin", root / "log", root / "datasets"
        self.commands.mkdir()
        self.log.touch()
        (self.commands / "env").symlink_to(shutil.which("env"))
        (self.commands / "mkdir").symlink_to(shutil.which("mkdir"))

    def has(self, command: str, body: str) -> None:
        path = self.commands / command
        path.write_text(f'#!{shutil.which("sh")}\necho "{command} $*" >> "{self.log}"\n{body}\n')
        path.chmod(0o755)

    def run(self) -> str:
        result = subprocess.run(
            [shutil.which("sh"), SCRIPT, self.folder],
            env={"PATH": str(self.commands)},
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert result.returncode == 0
        assert result.stderr == ""
        return result.stdout

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def installing(machine: Machine) -> str:
    return f'case "$*" in *install*) mkdir {machine.folder};; esac'


INSTALL = "apt-get -qq -y --no-install-recommends install dataset-fashion-mnist"


def test_nothing_to_do(machine):
    machine.folder.mkdir()
    assert machine.run() == f"Fashion-MNIST: found in {machine.folder}.\n"


def test_no_apt(machine):
    assert machine.run().count("\n") == 1
    assert "no apt-get; it will be downloaded" in machine.run()


def test_root_installs(machine):
    machine.has("id", "echo 0")
    machine.has("apt-get", installing(machine))
    assert machine.run() == "Fashion-MNIST: installing the package dataset-fashion-mnist.\n"
    assert machine.calls == ["id -u", INSTALL]


def test_stale_lists_are_updated_once(machine):
    machine.has("id", "echo 0")
    updated = machine.folder.with_name("updated")
    machine.has(
        "apt-get",
        f'case "$*" in *update*) mkdir {updated};; *) [ -d {updated} ] && mkdir {machine.folder};; esac',
    )
    machine.run()
    assert machine.calls == ["id -u", INSTALL, "apt-get -qq update", INSTALL]
    assert machine.folder.is_dir()


def test_sudo_without_a_password_installs(machine):
    machine.has("id", "echo 1000")
    machine.has("sudo", '[ "$1" = -n ] && shift\n"$@"')
    machine.has("true", "exit 0")
    machine.has("apt-get", installing(machine))
    machine.run()
    assert machine.calls[-1] == INSTALL


def test_sudo_that_asks_is_not_used(machine):
    machine.has("id", "echo 1000")
    machine.has("sudo", "exit 1")
    machine.has("apt-get", installing(machine))
    assert "needs root; it will be downloaded" in machine.run()
    assert not machine.folder.exists()


def test_neither_root_nor_sudo(machine):
    machine.has("id", "echo 1000")
    machine.has("apt-get", installing(machine))
    assert "needs root; it will be downloaded" in machine.run()


@pytest.mark.parametrize(
    "apt", ["echo E: no such package >&2; exit 100", "exit 0"], ids=["fails", "does nothing"]
)
def test_a_package_that_does_not_come(machine, apt):
    machine.has("id", "echo 0")
    machine.has("apt-get", apt)
    assert machine.run().splitlines()[-1].endswith("it will be downloaded (31 MB) when it is first needed.")
