"""The paper's twenty published data sets: a catalogue, and readers of the files they come in."""
