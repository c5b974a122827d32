"""Likeness: a registry of enrolled voices, and the decisions made with it."""
