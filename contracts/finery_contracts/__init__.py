"""The words that Finery's parts share: events, engine files, streams and errors. It imports nothing of Finery."""
