"""Labelling: a queue of records, verdicts of people and judges, a dataset of what they said."""
