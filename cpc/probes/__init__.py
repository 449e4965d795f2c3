"""Probes: what features on disk say about phones and speakers. They read files, never a model."""
