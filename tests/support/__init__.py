"""Helpers that tests of several rooms share: `from support.networks import ...`."""
