"""Auto-stop: what runs, since when, and how long it still may."""
