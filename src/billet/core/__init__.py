"""The decisions: pure functions of values. No IO, no async, no clock, no randomness."""
