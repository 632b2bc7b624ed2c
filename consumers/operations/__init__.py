"""What operators use: health, metrics, signals, doctor, topics, dead letters."""
