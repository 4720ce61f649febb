"""One run of a study, from preparation to the tables."""
