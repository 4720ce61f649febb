"""Merge jobs: merge the experts of a group, then evaluate."""
