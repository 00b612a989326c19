"""What came of runs: the report of one run as a page, and its summary in the terminal."""
