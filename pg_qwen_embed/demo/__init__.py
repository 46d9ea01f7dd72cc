"""The demo: its stage and its documents."""
