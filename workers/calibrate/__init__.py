"""Times samples of a study in a process of its own."""
