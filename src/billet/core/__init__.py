"""WHAT is decided: pure functions of values. No IO, no async, no clock, no randomness."""
