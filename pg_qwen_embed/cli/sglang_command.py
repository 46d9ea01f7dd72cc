"""sglang-command."""

import click

from pg_qwen_embed.inference import launch


@click.command(name="sglang-command")
@click.option(
    "--model", default="Qwen/Qwen3-Embedding-0.6B", show_default=True, help="A hub's name for it, or a folder."
)
@click.option("--gpu-memory", type=click.FloatRange(min=1), metavar="GIB", help="Of one card.  [default: SGLang looks]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=30000, show_default=True, type=click.IntRange(1, 65535), help="Port to listen on.")
def sglang_command(model: str, gpu_memory: float | None, host: str, port: int) -> None:
    """Print the command that starts SGLang for MODEL, with a reason for each flag.

    Paste it where the GPU is; nothing is started here. What the memory holds is estimated from the model's size. More
    in docs/sglang.md.
    """
    click.echo(launch.command(launch.flags(model, gpu_memory, host, port)))
