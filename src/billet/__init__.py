"""Billet: one address for a fleet of Flintlock hosts."""
