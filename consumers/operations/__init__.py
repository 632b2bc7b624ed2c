"""What operators use: health and metrics, doctor, topics, dead letters."""
