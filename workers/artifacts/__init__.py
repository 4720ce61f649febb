"""Committed artifacts: layout, manifests, cache."""
