"""HOW does a person use it? One file for each family of commands."""
