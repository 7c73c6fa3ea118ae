"""The main job: job -> table -> figure -> run directory. Loads pandas and matplotlib; not imported by the package."""
