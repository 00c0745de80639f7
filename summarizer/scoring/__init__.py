"""`python -m summarizer.evaluate`: trained runs scored on a split, beside what they have to beat."""
