"""Families of models, each on small random models of the host's real classes."""
