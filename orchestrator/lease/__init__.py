"""The lease that lets one driver at a time run a study."""
