"""The problem: games, their units, random families, catalogue, files."""
