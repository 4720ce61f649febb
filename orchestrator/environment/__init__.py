"""The surroundings of a command: environment variables and folders, checked before work starts."""
