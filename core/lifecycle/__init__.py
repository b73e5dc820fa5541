"""Launched models: states, policies, the process of a worker, the store, and the loop that makes wishes so."""
