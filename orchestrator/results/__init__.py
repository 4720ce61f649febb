"""The result tables of a study and their means over groups."""
