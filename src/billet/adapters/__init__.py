"""HOW the world is reached: one file for each thing outside."""
