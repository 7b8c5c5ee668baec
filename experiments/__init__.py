"""Recipes: one configuration a file."""
