"""A grid of searches that survives a kill: config, cells, parts."""
