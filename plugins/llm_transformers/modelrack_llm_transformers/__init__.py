"""Language models on Transformers: any architecture it loads, with continuous batching where that goes."""
