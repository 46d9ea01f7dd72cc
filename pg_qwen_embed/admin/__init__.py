"""What an administrator does, one use case a file."""
