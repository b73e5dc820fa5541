"""Merging what many clients ask at the same time into batches that a model runs at once.

For models that map each item to one result (embedding, rerank, classification): `Batcher` takes the items of all
requests, prepares them in one thread (tokenizing), runs them in another, in batches of items of like length, and gives
each request its results in order.
"""

from .batcher import Batcher
from .contract import BatchLimits, BatchModel, Done, Prepared

__all__ = ["BatchLimits", "BatchModel", "Batcher", "Done", "Prepared"]
