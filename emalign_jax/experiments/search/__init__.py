"""Search many games and keep rows, arrays and a manifest."""
