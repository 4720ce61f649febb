"""One run of a study: opening it, its session on a cluster, and its outputs."""
