"""Composes the image tasks that ship with the project from compact vendored sources."""
