"""What runs inside other people's tools. It uses search, admin and inference; nothing of ours uses it."""
