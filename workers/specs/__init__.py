"""The specifications of artifacts, one frozen dataclass per kind, with content-addressed ids."""
