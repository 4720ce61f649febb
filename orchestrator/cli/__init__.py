"""The command line: declarations of the verbs here, their work in `verbs`."""
