"""Rebuilds the vendored sources from the packages that carry them; see `__main__`."""
