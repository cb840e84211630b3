"""Reads people's data: takes offers of kind `ingest`, runs an engine for each, reports. It owns nothing durable."""
