"""Layers watched, and other gradients for a model's operations."""
