"""The errors Secateur raises on purpose.

Each message is one line: what was expected, what was got, and what to do. The command line prints it
and exits with 1 (2 for `UsageError`); nothing is overwritten on the way.
"""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "ArtifactError",
    "DataError",
    "DivergenceError",
    "InvalidArgumentError",
    "NotNestedError",
    "RankError",
    "SecateurError",
    "UsageError",
    "in_a_line",
    "unknown_name",
]


class SecateurError(Exception):
    """Base of every error that Secateur raises on purpose."""


class InvalidArgumentError(SecateurError, ValueError):
    """An argument's value or shape cannot be used; the message names it."""


class NotNestedError(InvalidArgumentError):
    """A reduced prior is wider than the data allow, so the reduced posterior is not a distribution."""


class DataError(SecateurError):
    """A data set is missing, damaged, or does not fit the network."""


class ArtifactError(SecateurError):
    """A run directory or saved file is missing, damaged, in use, or of another network."""


class DivergenceError(SecateurError):
    """Training produced a value that is not finite."""


class RankError(SecateurError):
    """Another process of the group has failed; the message is that process's own."""


class UsageError(SecateurError):
    """A name or option of the command line does not exist."""


def unknown_name(kind: str, got: str, valid: Iterable[str], *, own: str = "") -> UsageError:
    """Return the error for a name that does not exist, with the valid ones and the nearest match.

    Args:
        kind: What the name should have been, in words: `"network"`, `"data set"`, `"method"`.
        got: The name as it was given.
        valid: All names that exist.
        own: What may stand there besides, in words.

    >>> str(unknown_name("network", "lenet5", ["mlp", "lenet"]))
    "expected one of the networks mlp, lenet, got 'lenet5'; did you mean lenet?"
    """
    names, wanted = list(valid), got.lower()
    inside = [each for each in names if len(wanted) > 2 and wanted in each]  # mnist in fashion-mnist
    near = get_close_matches(wanted, names, n=1) or inside
    hint = f"; did you mean {near[0]}?" if near else ""
    besides = f"; your own {kind} is {own}" if own else ""
    return UsageError(f"expected one of the {kind}s {', '.join(names)}, got {got!r}{hint}{besides}")


def in_a_line(error: BaseException) -> str:
    r"""Return the kind of an error that is not ours, and the first line of what it says.

    Args:
        error: Any error.

    >>> in_a_line(ValueError("no such size\nhere is a page of advice"))
    'ValueError: no such size'
    """
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
