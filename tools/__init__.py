"""Scripts that make what is committed: the packaged model, the generated documentation."""
