"""`python -m sglang.launch_server` on a CPU: the same options, after those that a CPU needs."""

import os
import sys

import cpu  # noqa: F401  # first, in every process: what a CPU lacks

# Without a bound on tokens it takes half of the machine's memory.
OPTIONS = ("--device", "cpu", "--attention-backend", "torch_native", "--dtype", "float32", "--max-total-tokens", "65536",
           "--max-running-requests", "256", "--mem-fraction-static", "0.3")  # fmt: skip

if __name__ == "__main__":
    from sglang.launch_server import run_server
    from sglang.srt.server_args import prepare_server_args
    from sglang.srt.utils import kill_process_tree

    try:
        run_server(prepare_server_args([*OPTIONS, *sys.argv[1:]]))
    finally:
        kill_process_tree(os.getpid(), include_parent=False)
