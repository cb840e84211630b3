"""The import and validation programs: they run in the ml environment and run nothing of a model folder."""
