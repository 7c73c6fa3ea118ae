"""The page of a run: one HTML file with tables, figures and rows to explore. One file for each kind of run."""
