"""What all language models have in common: one behaviour for prompts and answers, whatever the engine."""
