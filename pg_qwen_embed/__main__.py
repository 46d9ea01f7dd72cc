"""`python -m pg_qwen_embed`."""

from pg_qwen_embed.cli import main

main(prog_name="pg-qwen-embed")
