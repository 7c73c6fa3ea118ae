"""Distributions over recommendations that a rational user obeys: obedience LPs and value-payoff frontiers."""
