"""The demo: its processes and its documents."""
