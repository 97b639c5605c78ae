"""What developers run: setup, generated code, and the checks of `make check`."""
