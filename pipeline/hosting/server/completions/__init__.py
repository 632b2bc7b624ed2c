"""/api/chat and /api/generate: from a request to text, whole or streamed.

routes.py   the two routes
task.py     what llama.cpp is to do for a request; unsupported requests are refused
stream.py   one completion: a thread runs llama.cpp, the event loop reads
options.py  Ollama's sampling options, translated for llama.cpp
"""
