"""A run as another engine's model, its adapter merged: made once, kept in the cache folder."""
