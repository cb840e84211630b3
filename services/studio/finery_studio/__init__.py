"""studio: the HTTP edge, and the truth about projects, keys, datasets, models and tasks."""
