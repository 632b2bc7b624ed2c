"""Models on disk: blobs and manifests, how they are created, listed and shown.

routes.py          the routes about models, blobs and embeddings
creation.py        /api/create and /api/copy: from a request to a manifest
creation_files.py  the checks of the files that a create request names
description.py     the bodies of /api/show, /api/tags, /api/ps
store.py           the folder on disk
blob_upload.py     one blob while it is uploaded
durable_file.py    writes that survive a crash; disk errors as Ollama reports them
catalogue.py       the manifests in memory, and which blobs they need
manifest.py        one model on disk
names.py           model names and blob digests
"""
