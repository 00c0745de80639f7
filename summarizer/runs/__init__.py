"""A run from its command to its results: jobs, processes, folders, how it ends."""
