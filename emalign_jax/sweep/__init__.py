"""A grid of searches that survives: config -> cells -> parts -> table -> figures. Not imported by the package."""
