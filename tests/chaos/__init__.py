"""Chaos: a house of separate processes under load, its processes killed and its connections cut at random.

Afterwards a checker reads all histories through public interfaces: nothing lost, doubled, stuck, misbilled, or
delivered to no one. It refuses to look into a database of the house.
"""
