"""A server with Ollama's HTTP API on top of llama.cpp.

Two programs use it: the embedded Ollama for demo, tests and laptops (`embedded/ollama`, llama.cpp
in its own process), and the host role (`consumers/host.py`, `llama-server` processes), which
serves many personas on one shared base. It implements the paths, status codes and error messages
of Ollama that ModelServer uses, so that one contract suite passes on all of them. It pulls no
models and supports neither images nor tools.

app.py             assembles the routes
profile.py         which Ollama version the server imitates, and how the versions differ
request_bodies.py  the JSON bodies of requests
json_bodies.py     reading and writing JSON as Ollama does
errors.py          the error response
keep_alive.py      `keep_alive`: how long a base stays in memory
conversation.py    one turn of a conversation
uvicorn_config.py  how the application is served
models/            models on disk: create, copy, show, list, delete
go_template/       prompt templates
completions/       chat and generate
runners/           the loaded llama.cpp, and which request waits for which
"""
