"""Brings the channels of one model into the order of another before a merge (Git Re-Basin)."""
