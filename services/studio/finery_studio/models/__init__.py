"""Models: the gallery, what was imported, what tuning made."""
