"""The embedded Ollama: `pipeline/hosting/server` over a llama.cpp in the process (xllamacpp).

Run as `python -m embedded.ollama --port P --folder DIR [--profile NAME] [--threads N]`.
"""
