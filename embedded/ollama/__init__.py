"""The embedded Ollama: `pipeline/hosting/server` over llama.cpp in the same process (xllamacpp).

Run as `python -m embedded.ollama --port P --folder DIR [--profile NAME] [--threads N]`.
"""
