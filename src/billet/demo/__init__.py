"""A whole cluster on one machine, and the same hosts chosen by a static list beside it."""
