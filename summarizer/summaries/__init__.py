"""`python -m summarizer.summarize`: articles in, summaries of a trained run out."""
