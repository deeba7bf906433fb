"""Weights in and out: files of this project and of others, matched by name, never by pickle."""
