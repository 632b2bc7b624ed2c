"""From an elder's answers to the JSONL file that a persona is trained on."""
