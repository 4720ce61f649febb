"""Images: their sources, decoding, splits in memory and the files of splits."""
