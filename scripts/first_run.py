"""What `make run` does once the library is installed: the main job on real data, or on digits without any."""

import subprocess
import sys
from datetime import datetime
from pathlib import Path

# About five minutes on two cores; `secateur fit lenet fashion-mnist` alone takes the full 50 epochs.
FASHION_MNIST = ["lenet", "fashion-mnist", "--epochs", "25"]
DIGITS = ["lenet", "digits"]
COMMAND = Path(sys.executable).with_name("secateur")
INTERRUPTED = 130  # what shells say of a command that Ctrl-C ended


def main() -> int:
    """Fit, print the next commands, and return the exit code."""
    from secateur import data  # here, so that Ctrl-C while torch is imported ends in order too
    from secateur.errors import DataError
    from secateur.reports import advice, record

    try:
        data.load("fashion-mnist", progress=True)
    except DataError as error:
        print(f"Fashion-MNIST is not available here ({error}).\nUsing the digits of scikit-learn instead.\n")
        chosen = DIGITS
    else:
        chosen = FASHION_MNIST
    out = Path("runs") / f"first-{datetime.now():%Y%m%d-%H%M%S}"
    print("Training and pruning takes about five minutes on two idle cores. Ctrl-C keeps finished epochs.")
    print("$", typed(["secateur", "fit", *chosen, "--out", str(out)]), "\n", flush=True)
    code = in_order([str(COMMAND), "fit", *chosen, "--out", str(out)])
    if code == 0:
        print("\nThe next commands to type:")
        for what, line in advice.next_commands(record.read(out))[-3:]:
            print(f"\n  # {what}\n  {typed(line.split(' '))}")
    return code


def in_order(command: list[str]) -> int:
    """Run a command to its end and return its exit code; Ctrl-C reaches it too, and is its business."""
    process = subprocess.Popen(command)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def typed(words: list[str]) -> str:
    """Return a command as it is typed where the environment is not activated."""
    inside = COMMAND.is_relative_to(Path.cwd())
    return " ".join([str(COMMAND.relative_to(Path.cwd()) if inside else COMMAND), *words[1:]])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
