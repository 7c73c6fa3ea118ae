"""What knows no game theory: checks of arguments, batches, compilation, memory, files, processes."""
