"""Tunes models: takes offers of kind `tune`, runs an engine for each, reports. It owns nothing durable."""
