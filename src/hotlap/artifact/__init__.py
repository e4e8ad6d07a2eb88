"""Artifacts: the folder that a model is handed over in, with its own evidence."""
