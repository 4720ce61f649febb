"""Seeds, subsets of images and batches, all functions of the specification alone."""
