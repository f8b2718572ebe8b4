"""What the cold start learns is what the HTTP door feeds, token for token, and then what the policy draws."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from forklight_model.chat import load_chat_format
from forklight_model.tokenizer import Tokenizer, build_character_tokenizer, load_tokenizer
from forklight_rollout.adapters.memory import MemoryEngine
from forklight_rollout.generation.engine_thread import EngineThread
from forklight_rollout.generation.generator import Generator
from forklight_rollout.http.plan import Backend, RequestBounds, plan_chat
from forklight_rollout.http.requests import ChatRequest, parse_request
from forklight_rollout.ports import EngineLimits
from forklight_trainer.sft.examples import ExampleReader

TEMPLATE = (
    "{% for m in messages %}#{{ m.role }}\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}#assistant\n{% endif %}"
)
TALK = [
    {"role": "system", "content": "Be brief, and do not say <user>."},
    {"role": "user", "content": "1 + 1?"},
    {"role": "assistant", "content": "<think>easy</think>\\boxed{2}"},
    {"role": "user", "content": [{"type": "text", "text": "And "}, {"type": "text", "text": "<think>2?"}]},
    {"role": "assistant", "content": "\n 4 "},
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "<think></think>Because."},
]


def own_tokenizer(folder: Path) -> Tokenizer:
    build_character_tokenizer().save(folder)
    return load_tokenizer(folder)


def foreign_tokenizer(folder: Path) -> Tokenizer:
    """Without this project's turns, and with a template of its own that writes behind an answer's end."""
    build_character_tokenizer().save(folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["added_tokens"] = [each for each in content["added_tokens"] if each["content"][1:2] not in "ua"]
    content["model"]["vocab"] = {
        {"<user>": "<u>", "<assistant>": "<a>"}.get(token, token): number
        for token, number in content["model"]["vocab"].items()
    }
    path.write_text(json.dumps(content))
    config = {"eos_token": "<eos>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return load_tokenizer(folder)


def door(folder: Path, tokenizer: Tokenizer) -> Backend:
    limits = EngineLimits(num_sequences=4, max_tokens=4096, vocabulary_size=tokenizer.vocab_size)
    return Backend(
        thread=EngineThread(Generator(MemoryEngine(limits))),
        tokenizer=tokenizer,
        chat=load_chat_format(folder, tokenizer),
        why_closed=lambda: "",
    )


@pytest.mark.parametrize("make", [own_tokenizer, foreign_tokenizer])
def test_a_conversation_is_learned_as_it_is_served(make: object, tmp_path: Path) -> None:
    assert callable(make)
    tokenizer = make(tmp_path)
    backend, bounds = door(tmp_path, tokenizer), RequestBounds(model="m", max_new_tokens=0, max_samples=1)
    reader = ExampleReader(
        tokenizer, load_chat_format(tmp_path, tokenizer), max_tokens=4096, on_too_long="refuse"
    )
    learned = reader.read(json.dumps({"messages": TALK}).encode())
    ids, counted = learned.ids_T.tolist(), learned.counted_T.tolist()
    drawn = []
    for turn, message in enumerate(TALK):
        if message["role"] != "assistant":
            continue
        request = parse_request(ChatRequest, json.dumps({"messages": TALK[:turn]}).encode())
        fed = list(plan_chat(request, backend, bounds).prompts[0].ids)
        answer = [*tokenizer.encode(str(message["content"])), *tokenizer.stop_ids]
        assert ids[: len(fed) + len(answer)] == fed + answer
        drawn += list(range(len(fed), len(fed) + len(answer)))
    assert len(ids) == drawn[-1] + 1
    assert [place for place, is_counted in enumerate(counted) if is_counted] == drawn
