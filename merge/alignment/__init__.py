"""Reorders the channels of one model to match another before a merge (Git Re-Basin)."""
