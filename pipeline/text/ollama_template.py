"""The TEMPLATE that a persona's model has in Ollama, in the language of Go's text/template."""


def build_ollama_template(
    *, system_open: str, user_open: str, assistant_open: str, close: str
) -> str:
    """Return a template that renders conversations exactly as `ChatFormat.render` does.

    Args:
        system_open: the marker before the system text.
        user_open: the marker before a user's message.
        assistant_open: the marker before an answer; it also ends the prompt.
        close: the marker after each message.
    """
    return (
        "{{ if .System }}"
        f"{system_open}{{{{ .System }}}}{close}"
        "{{ end }}{{ range .Messages }}"
        '{{ if eq .Role "user" }}'
        f"{user_open}{{{{ .Content }}}}{close}"
        '{{ else if eq .Role "assistant" }}'
        f"{assistant_open}{{{{ .Content }}}}{close}"
        "{{ end }}{{ end }}"
        f"{assistant_open}"
    )
