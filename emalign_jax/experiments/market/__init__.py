"""Markets from tables of real utilities: `emalign market`."""
