"""The search of equilibria: gradient play and exact checks in turn, best-response dynamics, monopolies."""
