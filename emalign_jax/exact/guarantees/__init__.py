"""Statements about all equilibria: guarantee LPs, coverage, premises, the equilibrium set, optimal transfers."""
