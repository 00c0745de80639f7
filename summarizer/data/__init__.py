"""From a person's files or a hub data set to batches of tokens: reading, prompting, caching, batching."""
