"""The progress of a run: its data, its display, and its publication to the store."""
