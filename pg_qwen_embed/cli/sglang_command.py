"""`sglang-command`: prints a command; inference/launch.py chooses its flags."""

import click

from pg_qwen_embed.inference import launch


@click.command(name="sglang-command")
@click.option("--model", default="Qwen/Qwen3-Embedding-0.6B", show_default=True, help="Its name on a hub, or a folder.")
@click.option(
    "--gpu-memory", type=click.FloatRange(min=1), metavar="GIB", help="Memory of one GPU.  [default: left to SGLang]"
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=30000, show_default=True, type=click.IntRange(1, 65535), help="Port to listen on.")
def sglang_command(model: str, gpu_memory: float | None, host: str, port: int) -> None:
    """Print the command that starts SGLang for MODEL, with a reason for each flag.

    Run it where the GPU is; nothing is started here. Memory use is estimated from the size of the model. See also
    docs/sglang.md.
    """
    click.echo(launch.command(launch.flags(model, gpu_memory, host, port)))
