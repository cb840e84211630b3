"""Figures that the README may quote: each is printed by a command in this folder, against a comparator or a goal."""
