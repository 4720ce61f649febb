"""Runs one trial or one merge job in one process; owns the object store and its protocol."""
