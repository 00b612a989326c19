"""What `make run` does once everything is installed: the main job on real data, or on digits without any."""

import subprocess
import sys
from datetime import datetime
from pathlib import Path

from secateur import data
from secateur.errors import DataError

# Ends within six minutes on two cores; `secateur fit lenet fashion-mnist` alone takes the full 50 epochs.
FASHION_MNIST = ["lenet", "fashion-mnist", "--epochs", "25"]
DIGITS = ["lenet", "digits"]


def main() -> int:
    """Fit, and return the command's exit code."""
    try:
        data.load("fashion-mnist", progress=True)
    except DataError as error:
        print(f"Fashion-MNIST cannot be had here ({error}).\nGoing on with the embedded digits instead.\n")
        chosen = DIGITS
    else:
        chosen = FASHION_MNIST
    out = f"runs/first-{datetime.now():%Y%m%d-%H%M%S}"
    command = [str(Path(sys.executable).with_name("secateur")), "fit", *chosen, "--out", out]
    print("$ secateur fit", *chosen, "--out", out, "\n", flush=True)
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
