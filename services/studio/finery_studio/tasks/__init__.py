"""Tasks: what was asked for, how it stands, what came of it."""
