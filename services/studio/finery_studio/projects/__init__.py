"""Projects and keys: who may do what."""
