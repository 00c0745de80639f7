"""What a person gets to see of results: tables, sentences and pictures, at a terminal, in files and on a page."""
