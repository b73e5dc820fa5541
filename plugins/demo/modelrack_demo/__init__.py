"""A small real chat model that needs no download."""
