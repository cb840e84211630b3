"""The ingest program. It needs pyarrow alone, starts in a fraction of a second, and treats every byte as hostile."""
