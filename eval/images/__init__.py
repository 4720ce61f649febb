"""Images: sources, decoding, splits and their files."""
