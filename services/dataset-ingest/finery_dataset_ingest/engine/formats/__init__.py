"""One module a format: a generator that yields samples and flawed records in the order of the file."""
