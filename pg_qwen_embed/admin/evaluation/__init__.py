"""Evaluate an embedding on its own rows: which instruction, dimensions, index or mode finds the right rows most often.

`prepare` reads a sample and says what it will cost, `run` embeds and searches it, `keep` and `history` have the results."""

from pg_qwen_embed.admin.evaluation.results import history, keep
from pg_qwen_embed.admin.evaluation.run import run
from pg_qwen_embed.admin.evaluation.sample import Cost, Prepared, Request, prepare

__all__ = ["Cost", "Prepared", "Request", "history", "keep", "prepare", "run"]
