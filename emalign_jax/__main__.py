from emalign_jax.cli import launch

if __name__ == "__main__":
    launch()
