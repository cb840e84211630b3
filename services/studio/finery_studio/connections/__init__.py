"""Connections: object stores and databases that a project has registered."""
