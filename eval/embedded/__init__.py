"""The embedded tasks: composes their images from compact vendored sources."""
