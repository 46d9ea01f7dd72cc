"""The use cases of an administrator, one file each."""
