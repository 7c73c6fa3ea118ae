"""Concavification: optimal distributions over beliefs by column generation, bounded by branch and bound or MILPs."""
