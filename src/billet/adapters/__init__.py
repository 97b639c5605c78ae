"""HOW the rest of the world is reached: one file for each program or interface outside Billet."""
