"""The prompt of a completion fits the runner that it is sent to."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from pipeline.hosting.server.completions.options import Options
from pipeline.hosting.server.completions.stream import CompletionStream
from pipeline.hosting.server.completions.task import CompletionTask
from pipeline.hosting.server.conversation import Turn
from pipeline.hosting.server.go_template.prompt import compile_template
from tests.unit.pipeline.hosting.server.runners.world import World


def test_prompt_is_fitted_to_what_the_runner_has(world: World) -> None:
    """And not to the larger context that was asked for: the persona's own words stay whole."""
    world.limit(context=120, max_context=120)
    template = compile_template("{{ .System }}|{{ .Prompt }}|{{ .Response }}")
    said = [
        Turn(role=role, content=f"{number} {'word ' * 5}")
        for number in range(10)
        for role in ("user", "assistant")
    ]
    turns = (Turn(role="system", content="You are Anna."), *said)
    task = CompletionTask(world.plain(), Options(num_ctx=4096), None, turns, template, True, None)

    async def render() -> str:
        with ThreadPoolExecutor(1) as executor:
            return await CompletionStream(world.scheduler, task, streams=False).render(executor)

    prompt = asyncio.run(render())
    assert len(prompt) <= 120
    assert "You are Anna." in prompt and "9 word" in prompt
