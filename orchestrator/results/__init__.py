"""The result tables and their means over groups."""
