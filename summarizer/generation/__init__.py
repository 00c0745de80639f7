"""From articles to summaries, for all trials of a group together, and the files that summaries are kept in."""
