"""The twenty published data sets of the merging papers: a catalogue, and readers of their files."""
