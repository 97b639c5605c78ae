"""The simulator: Billet's own classes in virtual time, with seeded faults, and checkers of every promise."""
