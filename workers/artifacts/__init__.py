"""The commit protocol for artifacts in a store: paths, manifests, checksums and node cache."""
