"""Tuning jobs: parameters, the automatic recipe, OpenAI's surface for them."""
