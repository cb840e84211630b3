"""The ingest program. It needs no torch, starts in a fraction of a second, and treats every byte as hostile."""
