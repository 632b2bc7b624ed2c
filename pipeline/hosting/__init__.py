"""Where personas are served: the port to the model hosts, and a server of our own.

port.py                 what the service needs of a model host
ollama.py               the port over Ollama's API
ollama_errors.py        Ollama's errors as errors of the service
ollama_version.py       which forms of a model a version serves
base_file.py            a base's GGUF file as it is uploaded
prompt_check.py         whether a host renders prompts as training does
failure_attribution.py  whether a failure is the host's or one elder's model's
server/                 a server with Ollama's API over llama.cpp
llama_server.py         runners of that server as llama-server processes
llama_process.py        one llama-server process
"""
