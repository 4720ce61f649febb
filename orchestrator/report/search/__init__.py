"""The report's chapter on a search."""
