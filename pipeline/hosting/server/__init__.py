"""A server that speaks Ollama's API over llama.cpp.

Two programs are built on it: the embedded Ollama of the demo, the tests and laptops (llama.cpp in
the process, `embedded/ollama`), and the host role, which serves many personas of one
base (`llama-server` processes). It has the paths, status codes and error sentences of Ollama that
ModelServer uses, so that one contract suite passes on all of them. It pulls no models and knows
no images and no tools.

    shapes.py       requests, replies, and what lies on disk
    names.py        model names and blob digests
    store.py        blobs and manifests on disk
    catalogue.py    the manifests in memory, and which blobs they need
    weights.py      what a GGUF file says about itself, and whether an adapter fits a base
    creation.py     /api/create: from a request to a manifest
    description.py  /api/show, /api/tags, /api/ps
    template.py     the subset of Go's templates that prompts need: parsed
    rendering.py    the same: rendered, and messages turned into a prompt
    options.py      Ollama's options, as llama.cpp names them
    runner.py       the port to one loaded llama.cpp
    llama.py        what all llama.cpp have in common: prompts, adapters, streams
    slots.py        which slot a request is worked on, and what may be gone on from there
    runners.py      which llama.cpp are loaded, and when the next one takes over
    residents.py    what is in memory, who gives way to whom, what is on its way out
    residency.py    how many of them, and with how much
    rooms.py        one base: what answers, and who waits for the next one
    instances.py    one loaded llama.cpp and its requests in flight
    adapters.py     which adapters are loaded together
    starts.py       one start, and what is tried when it fails
    backoff.py      what failed lately is not tried again at once
    answers.py      /api/chat and /api/generate: one answer, whole or in pieces
    app.py          the routes
    serving.py      how they are served
"""
