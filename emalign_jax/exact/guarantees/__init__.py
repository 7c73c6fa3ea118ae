"""What is true of all equilibria: guarantee LPs, coverage, premises, the equilibrium set, optimal transfers."""
