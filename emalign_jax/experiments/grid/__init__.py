"""Searches over a grid of specifications, block by block: `emalign search` and `emalign sweep`."""
