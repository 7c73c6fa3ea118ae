"""Distributions over beliefs: belief LPs by column generation, with bounds by branch and bound or MILPs."""
