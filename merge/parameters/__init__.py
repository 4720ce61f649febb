"""The parameters of the methods, by family, without torch. `merge.catalogue` lists them."""
