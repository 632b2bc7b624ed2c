"""Where personas are served: the port, its hosts, and the server that speaks Ollama's API."""
