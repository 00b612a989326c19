"""Grids of runs: networks x data sets x methods x seeds, each cell a process of its own, with a live view."""
