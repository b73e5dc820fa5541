"""Facts of language models for modelrack: names, abilities, sizes, formats and where the files are."""
