"""Reports of finished runs and comparisons: HTML pages, tables, figures, and what the terminal prints."""
