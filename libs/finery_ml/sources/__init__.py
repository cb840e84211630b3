"""Places of bytes: files, object stores and URLs, fetched into a job folder under limits. One module a kind of place.

It refuses to know what the bytes are for: an engine says which place, and reads what came.
"""
