"""`emalign align`: text -> tables -> experiment, removal -> report -> figure. Loads pandas and matplotlib when used."""
