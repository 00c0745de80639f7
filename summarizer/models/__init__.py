"""The frozen base model: where its weights come from, how they are stored, how they load."""
