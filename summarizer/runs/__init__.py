"""A run from its command to its results: its record, its folder, its processes, how it ends."""
