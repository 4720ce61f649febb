"""The merging methods, one file each; `merge.methods` is the table of them."""
