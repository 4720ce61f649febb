"""The merging methods, one file each; `merge.table` is the table of them."""
