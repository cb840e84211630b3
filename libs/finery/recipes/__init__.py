"""Recipes: small sample data sets that ship with Finery."""
