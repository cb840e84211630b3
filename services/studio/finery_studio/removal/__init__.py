"""What becomes of the bytes of what was deleted."""
