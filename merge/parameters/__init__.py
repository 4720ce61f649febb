"""The parameters of the methods, by family; free of torch. `merge.params` is their table."""
