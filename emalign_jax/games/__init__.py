"""Games: the data of a game, units and tolerances, random families, a catalogue, files."""
