"""The local embedding server: a small real embedder that speaks SGLang's protocol, for machines without a GPU."""
