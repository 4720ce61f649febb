"""Methods that users write: found in files and packages, loaded from there or from the store."""
