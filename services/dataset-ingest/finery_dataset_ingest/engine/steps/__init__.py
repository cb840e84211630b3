"""The steps of a preparation: pure functions of records, parameters and a seed."""
