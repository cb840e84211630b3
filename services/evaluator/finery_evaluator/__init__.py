"""Measures models: takes offers of kind `evaluate`, runs an engine for each, reports. It owns nothing durable."""
