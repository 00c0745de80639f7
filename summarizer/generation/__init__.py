"""From prompts to token ids, for all trials of a group at once."""
