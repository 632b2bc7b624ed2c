"""From an elder's answers to a served persona: data sets, jobs, training, hosting, chat.

Uses MongoDB, Ollama and the disk, and never Kafka.
"""
