"""WHAT is decided: values in, values out. No IO, no async, no clock, no chance."""
