"""Summaries over HTTP: a page and an API on which adapters write side by side over one loaded base."""
