"""Templates: what the subset renders, and that everything else is refused."""

import pytest

from pipeline.hosting.server.conversation import Turn
from pipeline.hosting.server.go_template.prompt import PromptTemplate, fit_prompt
from pipeline.hosting.server.go_template.syntax import TemplateError

CHATML_BY_TURN = (
    "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}"
    "{{ if .Prompt }}<|im_start|>user\n{{ .Prompt }}<|im_end|>\n{{ end }}"
    "<|im_start|>assistant\n{{ .Response }}<|im_end|>\n"
)
CHATML_BY_MESSAGES = (
    "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end -}}\n"
    "<|im_start|>assistant\n"
)
GEMMA = (
    "{{- range $i, $m := .Messages }}"
    '{{- if eq $m.Role "user" }}<start_of_turn>user\n'
    "{{ if and (eq $i 1) $.System }}{{ $.System }}\n{{ end }}{{ $m.Content }}<end_of_turn>\n"
    '{{- else if eq .Role "assistant" }}<start_of_turn>model\n{{ .Content }}<end_of_turn>\n'
    "{{- end }}"
    "{{- end }}<start_of_turn>model\n"
)


def turns(*pairs: tuple[str, str]) -> list[Turn]:
    """Return turns of (role, content)."""
    return [Turn(role=role, content=content) for role, content in pairs]


def render(source: str, *pairs: tuple[str, str]) -> str:
    """Render a template for turns of (role, content)."""
    return PromptTemplate(source).render(turns(*pairs))


CONVERSATION = (("system", "S"), ("user", "U1"), ("assistant", "A1"), ("user", "U2"))


def test_template_by_turn_ends_where_the_model_speaks() -> None:
    """Finished turns are rendered completely, the last one up to the response."""
    assert render(CHATML_BY_TURN, *CONVERSATION) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU1<|im_end|>\n"
        "<|im_start|>assistant\nA1<|im_end|>\n"
        "<|im_start|>user\nU2<|im_end|>\n<|im_start|>assistant\n"
    )


def test_template_by_messages_gives_the_same_prompt() -> None:
    """Two ways of writing ChatML."""
    assert render(CHATML_BY_MESSAGES, *CONVERSATION) == render(CHATML_BY_TURN, *CONVERSATION)


def test_variables_and_root_in_range() -> None:
    """`$i`, `$m` and `$.System` inside a range, and trim markers around."""
    assert render(GEMMA, ("system", "S"), ("user", "U1"), ("assistant", "A1"), ("user", "U2")) == (
        "<start_of_turn>user\nS\nU1<end_of_turn>"
        "<start_of_turn>model\nA1<end_of_turn>"
        "<start_of_turn>user\nU2<end_of_turn>"
        "<start_of_turn>model\n"
    )


def test_neighbours_of_one_role_become_one() -> None:
    """As Ollama does it: joined by an empty line."""
    assert render("{{ .Prompt }}|", ("user", "a"), ("user", "b")) == "a\n\nb|"


def test_template_without_response_gets_one_at_its_end() -> None:
    """So that earlier answers are in the prompt."""
    assert render("<{{ .Prompt }}>", ("user", "a"), ("assistant", "b"), ("user", "c")) == "<a>b<c>"


def test_condition_on_response_is_cut_in_the_last_turn() -> None:
    """Nothing after the first mention of the response is rendered, whatever comes."""
    source = "{{ .Prompt }}{{ if .Response }}({{ .Response }}){{ end }}!"
    assert render(source, ("user", "a")) == "a"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a {{- .Prompt -}} \n b", "aPb"),
        ("a {{ .Prompt }} b", "a P b"),
        ("{{/* nothing */}}x", "x"),
        ("{{ if not .System }}no{{ else }}yes{{ end }}", "no"),
        ("{{ if or .System .Prompt }}yes{{ end }}", "yes"),
        ("{{ if and .System .Prompt }}yes{{ else }}no{{ end }}", "no"),
        ("{{ or .System .Prompt }}", "P"),
        ('{{ if eq .Prompt "Q" "P" }}yes{{ end }}', "yes"),
        ('{{ if ne .Prompt "P" }}yes{{ else if .Prompt }}else{{ end }}', "else"),
        ('{{ "a\\n\\"" }}{{ `b` }}{{ 3 }}', 'a\n"b3'),
        ('{{ if (and (not .System) (eq .Prompt "P")) }}deep{{ end }}', "deep"),
        ("{{ $.Prompt }}", "P"),
        ("{{ range .Messages }}{{ .Role }}={{ .Content }}{{ else }}none{{ end }}", "user=P"),
        ("{{ if .Messages }}{{ range $m := .Messages }}{{ $m.Content }}{{ end }}{{ end }}", "P"),
    ],
)
def test_supported_constructs(source: str, expected: str) -> None:
    """Each construct of the subset, rendered for one user's turn `P`."""
    assert render(source, ("user", "P")) == expected


@pytest.mark.parametrize(
    "source",
    [
        "{{ if .System }}",
        "{{ end }}",
        "{{ else }}",
        "{{ if .System }}{{ else }}{{ else }}{{ end }}",
        "{{ .System",
        "{{ }}",
        "{{ .Tools }}",
        "{{ .System.Length }}",
        "{{ .Prompt | printf }}",
        '{{ printf "%s" .Prompt }}',
        "{{ len .Messages }}",
        "{{ $x := .Prompt }}",
        "{{ $unknown }}",
        "{{ with .System }}{{ end }}",
        '{{ template "x" }}',
        '{{ define "x" }}{{ end }}',
        "{{ range $a, $b, $c := .Messages }}{{ end }}",
        "{{ range .Messages }}",
        "{{ eq .Role }}",
        "{{ not .Role .Role }}",
        '{{ "unclosed }}',
        "{{ (.System }}",
        "{{ if }}x{{ end }}",
        "{{ index .Messages 0 }}",
        "{{ break }}",
        "{{ range $m := .Messages }}{{ end }}{{ $m.Role }}",
    ],
)
def test_unsupported_construct_is_refused(source: str) -> None:
    """An error at `create` is better than a prompt that differs from Ollama's."""
    with pytest.raises(TemplateError):
        PromptTemplate(source)


def test_oldest_turns_are_left_out_of_a_prompt_that_is_too_long() -> None:
    """The system prompt and the last turn stay."""
    long = turns(("system", "S"), ("user", "old " * 9), ("assistant", "A"), ("user", "new new new"))
    prompt = fit_prompt(PromptTemplate(CHATML_BY_MESSAGES), long, 12, lambda p: len(p.split()))
    assert "S" in prompt and "new" in prompt and "old" not in prompt


def test_last_turn_stays_even_if_it_alone_is_too_long() -> None:
    """It is cut by tokens later."""
    alone = turns(("user", "word " * 50))
    prompt = fit_prompt(PromptTemplate("{{ .Prompt }}"), alone, 5, lambda p: len(p.split()))
    assert prompt == "word " * 50


def test_user_text_is_not_parsed_as_a_template() -> None:
    """Actions in a message stay text."""
    assert render("{{ .Prompt }}", ("user", "{{ .System }}")) == "{{ .System }}"
