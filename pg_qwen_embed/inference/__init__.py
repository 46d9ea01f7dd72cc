"""Everything that speaks to an embedding server: from text to vectors."""
