"""The work itself, one noun a file: from an elder's answers to a model that speaks as she did.

Knows MongoDB, Ollama and the disk; knows nothing of Kafka.
"""
