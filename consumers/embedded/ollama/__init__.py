"""A small server that speaks Ollama's API over llama.cpp (xllamacpp), for the embedded stack.

Run as `python -m consumers.embedded.ollama --port P --folder DIR [--threads N]`. It serves what
the `ollama` client of ModelServer uses, with Ollama's status codes and error sentences, so that
one contract suite passes on both. It is no replacement for Ollama: no registry, no quantising,
no images, no tools.

    shapes.py       what comes in and goes out
    names.py        model names and blob digests
    store.py        blobs and manifests on disk
    weights.py      what a GGUF file says about itself, and whether an adapter fits a base
    creation.py     /api/create: from a request to a manifest
    description.py  /api/show, /api/tags, /api/ps
    template.py     the subset of Go's templates which prompts need: parsed
    rendering.py    the same: rendered, and messages turned into a prompt
    options.py      Ollama's options, as llama.cpp names them
    runner.py       one llama.cpp with its adapters; generations
    runners.py      which llama.cpp are loaded
    answers.py      /api/chat and /api/generate: one answer, whole or in pieces
    app.py          the routes
"""
