"""WHAT IF everything goes wrong? The real parts in a simulated world: virtual time, seeded faults, checkers apart."""
