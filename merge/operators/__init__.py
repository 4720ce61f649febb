"""The methods, one file each; `README.md` says which sources they follow."""
