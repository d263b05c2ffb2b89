"""Experiments: a file is one, and they are found here."""
