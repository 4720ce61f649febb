"""One driver at a time on a study."""
