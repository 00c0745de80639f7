"""The frozen base: where its weights come from, how they are stored, how they load."""
