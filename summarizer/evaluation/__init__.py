"""How good a summary is: ROUGE with intervals, the Lead-3 baseline beside it, predictions on disk."""
