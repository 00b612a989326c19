"""The package's version, in the one place the build reads it from."""

__all__ = ["__version__"]

__version__ = "0.2.0.dev0"
