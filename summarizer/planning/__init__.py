"""What a run will need, found without a weight: memory by part, arithmetic, and what still fits."""
