"""`python -m sglang.launch_server` on a CPU: the same options."""

import os
import sys

import cpu  # noqa: F401  # first, in every process: what a CPU lacks

if __name__ == "__main__":
    from sglang.launch_server import run_server
    from sglang.srt.server_args import prepare_server_args
    from sglang.srt.utils import kill_process_tree

    try:
        run_server(prepare_server_args(sys.argv[1:]))
    finally:
        kill_process_tree(os.getpid(), include_parent=False)
