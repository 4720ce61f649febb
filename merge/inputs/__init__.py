"""Checks before every merge that base and experts can be merged."""
