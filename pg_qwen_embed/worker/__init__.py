"""The sync worker: follows generations, from changed rows to written vectors."""
