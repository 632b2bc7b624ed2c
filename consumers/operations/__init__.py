"""Operating the service: health, metrics, signals, doctor, topics, dead letters."""
