"""Code without game theory: checks of arguments, batches, compilation, memory, files, signals."""
