"""The parameters of the methods, by family; free of torch. `merge.catalogue` is their table."""
