"""Budgets: what a project means to spend."""
