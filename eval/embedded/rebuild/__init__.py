"""Rebuilds the vendored sources of the embedded tasks; `__main__` is the command."""
