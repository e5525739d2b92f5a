"""Representations of the interfaces where molecules meet."""
