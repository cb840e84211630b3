"""Checks and imports model folders: takes offers of kind `validate` and `import`, runs an engine for each, reports."""
