"""What a run leaves behind: metrics.jsonl and summary.json always, wandb beside them."""
