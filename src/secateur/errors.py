"""The errors Secateur raises on purpose.

Each message is one line: what was expected, what was got, and what to do. The command line prints it
and exits with 1 (2 for `UsageError`); nothing is overwritten on the way.
"""

__all__ = [
    "ArtifactError",
    "DataError",
    "DivergenceError",
    "InvalidArgumentError",
    "NotNestedError",
    "SecateurError",
    "UsageError",
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


class UsageError(SecateurError):
    """A name or option of the command line does not exist."""
