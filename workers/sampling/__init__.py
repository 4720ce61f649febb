"""Seeds, batches and subsets of images."""
