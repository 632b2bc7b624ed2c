"""Ollama's prompt templates: the subset of Go's text/template that they need.

The template that personas are created with is made in pipeline/text/ollama_template.py.

parser.py     from source to a syntax tree
syntax.py     the syntax tree
rendering.py  from a syntax tree and values to text
response.py   where a template names `.Response`, and cutting it there
prompt.py     from a conversation to a prompt, by Ollama's rules
"""
