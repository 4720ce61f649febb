"""What defines each artifact: one frozen specification a kind, and its content-addressed id.

Everything that changes the bits of a result is in its specification, and nothing else: no URLs,
resources, retries or names of studies. `VERSIONS` is raised when the meaning of a kind changes.
"""
