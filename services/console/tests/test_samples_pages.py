"""Samples and groups over a real buffer: found, shown with their tokens, no error for what is lost."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from html import unescape
from pathlib import Path
from urllib.parse import urlencode

import pytest
import pytest_asyncio

from forklight_core import ids
from services.console.tests.real_run import HOSTILE, SeenRun, seen_run, write_verdict


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def run(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SeenRun]:
    def length_of(sample: str) -> int:
        return 80_000 if sample.endswith("g00000000/s000") else 12

    async with seen_run(tmp_path_factory.mktemp("seen"), length_of) as opened:
        yield opened


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def find(run: SeenRun, **form: object) -> dict[str, object]:
    answer = await run.client.get(f"/api/search?{urlencode(form)}")
    assert answer.status_code == 200, answer.text
    found: dict[str, object] = answer.json()
    found["names"] = [each["sample_id"].partition("/")[2] for each in answer.json()["samples"]]
    return found


async def test_samples_are_found_by_what_they_are_like(run: SeenRun) -> None:
    assert (await find(run, order="oldest"))["num_matching"] == "4"
    right = await find(run, reward_min=1, state="trained")
    assert sorted(right["names"]) == ["g00000000/s000", "g00000001/s000"]  # type: ignore[type-var]
    assert (await find(run, length_min=1000))["names"] == ["g00000000/s000"]
    assert (await find(run, order="longest"))["names"][0] == "g00000000/s000"  # type: ignore[index]
    assert (await find(run, domain="sums", order="lowest_reward"))["names"] == [
        "g00000000/s001",
        "g00000000/s000",
    ]
    assert (await find(run, prompt_id="p<b>0</b>"))["num_matching"] == "2"
    assert (await find(run, step_min=2))["names"] == []
    assert (await find(run, kind="logic", step_max=1))["num_matching"] == "2"
    assert len((await find(run, state="ready"))["names"]) == 4  # type: ignore[arg-type]
    assert len((await find(run, state="open", reward_max=0))["names"]) == 2  # type: ignore[arg-type]
    page = (await run.client.get("/samples?reward_min=1")).text
    assert "<b>2</b> samples match" in page and "/samples/g00000001/s000" in page


async def test_a_field_that_cannot_be_is_said_and_nothing_breaks(run: SeenRun) -> None:
    wrong = ("reward_min=abc", "reward_min=nan", "length_min=-1", "length_min=1.5", "state=lost", "order=x")
    for query in (*wrong, "finish=y", "step_max=99999999999"):
        answer = await run.client.get(f"/samples?{query}")
        assert answer.status_code == 422 and 'role="alert"' in answer.text, query
    assert (await run.client.get("/samples?after=junk")).status_code == 422
    for path in ("/samples/g99999999/s000", "/groups/g99999999", "/samples/g00000000/s009"):
        assert (await run.client.get(path)).status_code == 404
    assert (await run.client.get("/samples/..%2f..%2fetc/passwd")).status_code == 404


async def test_a_long_response_is_a_window_a_map_and_an_export(run: SeenRun) -> None:
    page = (await run.client.get("/samples/g00000000/s000?start=39999")).text
    assert "tokens 39,999 to 41,998 of 80,000" in page and page.count('<i class="p') == 2000 + 10
    assert 'title="token 40000: p 0.5' in page and ", version 1" in page and len(page) < 400_000
    window = (await run.client.get("/samples/g00000000/s000/window?start=2")).text
    assert window.count('<i class="x v0"') == 2 and 'data-start="2"' in window and "<html" not in window
    whole = (await run.client.get("/samples/g00000000/s000/map")).json()
    assert (whole["num_tokens"], len(whole["mean"]), whole["put_in"]) == (80_000, 1200, [[4, 6]])
    assert whole["spans"] == [[0, 0, 0], [40_000, 1, 1]] and whole["least"][0] <= whole["mean"][0] < 0.01
    answer = await run.client.get("/api/samples/g00000000/s001")
    assert 'filename="seen-g00000000-s001.json"' in answer.headers["content-disposition"]
    tokens = answer.json()["tokens"]
    assert len(tokens["response_ids"]) == 12 and tokens["text"] == f"so 1 {HOSTILE}"


async def test_a_group_is_shown_side_by_side(run: SeenRun) -> None:
    page = (await run.client.get("/groups/g00000001")).text
    assert "first difference from s000" in page
    assert ">6</a>" in page and "?start=0#response" in page  # the second half differs
    assert '<span class="adv a2">1</span>' in page and '<span class="adv a-2">-1</span>' in page
    assert "first difference from s001" in (await run.client.get("/groups/g00000001?to=s001")).text
    groups = (await run.client.get("/groups")).text
    assert groups.index("/groups/g00000005") < groups.index("/groups/g00000000")
    assert 'class="dot r4"' in groups and 'class="dot r0"' in groups
    assert "/groups/g00000001" not in (await run.client.get("/groups?prompt_id=p0")).text


async def test_hostile_text_is_shown_and_does_nothing(run: SeenRun) -> None:
    sample = ids.sample_id(run.names[0], 1)
    write_verdict(run.folder, sample, evidence=HOSTILE, longer=HOSTILE.encode())
    pages = [
        await run.client.get(path)
        for path in (
            "/samples/g00000000/s001",
            "/groups/g00000000",
            "/samples?prompt_id=p<b>0</b>",
            "/groups",
        )
    ]
    for answer in pages:
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        for bad in (
            "<script>alert",
            "<img src",
            "<b>0</b>",
            "\u202e",
            "\x1b",
            "\x00",
            " 49 ",
            "</pre><script>",
        ):
            assert bad not in answer.text, bad
    first = pages[0].text
    assert unescape(first).count("</pre><script>alert(1)</script> \\u202egnp\\u202c \\u001b[31m \\u0000") == 4
    assert "verifier-0 rules 3" in first and '<span class="badge good">ok</span>' in first


async def test_a_trace_has_its_link_or_its_id(run: SeenRun) -> None:
    trace = f"{ids.trace_id(ids.sample_id(run.names[0], 0)):032x}"
    page = (await run.client.get("/samples/g00000000/s000")).text
    assert f'<code id="trace" title="trace id">{trace}</code>' in page and ">open</a>" not in page


async def test_lost_and_corrupt_payloads_are_words_and_no_errors(run: SeenRun) -> None:
    found = (await run.client.get("/api/samples/g00000002/s000")).json()["sample"]["record"]["payload"]
    other = (await run.client.get("/api/samples/g00000002/s001")).json()["sample"]["record"]["payload"]
    places = [run.folder / "blobs" / each["id"][3:5] / each["id"][5:] for each in (found, other)]
    places[0].unlink()
    places[1].write_bytes(b"x" * places[1].stat().st_size)
    run.app.state.samples.payloads._kept.clear()
    for name, word in (("s000", "is not in the blob store"), ("s001", "is corrupt")):
        page = await run.client.get(f"/samples/g00000002/{name}")
        assert page.status_code == 200 and word in page.text
        assert (await run.client.get(f"/samples/g00000002/{name}/map")).status_code == 404
        assert word in json.loads((await run.client.get(f"/api/samples/g00000002/{name}")).text)["problem"]
    assert "is corrupt" in (await run.client.get("/groups/g00000002")).text
    assert "nothing was generated" in (await run.client.get("/samples/g00000005/s000")).text


async def test_a_verdict_is_found_by_its_time_in_a_long_log(tmp_path: Path) -> None:
    from forklight_console.samples.verdicts import VerdictFiles

    folder = tmp_path / "verdicts"
    folder.mkdir()
    lines = [
        {"type": "verdict", "at": 1e9 + at, "sample": f"r/g{at // 4:08d}/s000", "pad": "x" * 500, "seq": at}
        for at in range(4000)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "front-20260101-000001.jsonl").write_text(text + '{"torn": ')
    files = VerdictFiles(tmp_path)
    for group in (0, 1, 500, 998, 999):
        times = {"since": 1e9 + 4 * group, "until": 1e9 + 4 * group + 3}
        found = files.find(f"r/g{group:08d}/s000", **times)
        assert [line.body["seq"] for line in found] == list(range(4 * group, 4 * group + 4))
    assert files.find("r/g00000500/s000", since=1e9 + 3500, until=1e9 + 3600) == []
    assert VerdictFiles(tmp_path / "absent").find("r/g00000000/s000", since=0, until=1) == []


async def test_the_text_is_the_tokenizers_and_changes_nothing_of_the_rest(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    from forklight_console.samples.text import RunText

    text = RunText(tmp_path)
    assert text.pieces([1, 2], 0, 2) == ["1 ", "2 "] and "no tokenizer.json" in text.problem
    from tokenizers import decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(models.BPE({each: at for at, each in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    (tmp_path / "final").mkdir()
    made.save(str(tmp_path / "final" / "tokenizer.json"))
    ids_of_text = made.encode("a\u00e9\u2713b").ids
    assert text.problem == ""
    assert text.pieces(ids_of_text, 0, 7) == ["a", "", "\u00e9", "", "", "\u2713", "b"]
    assert text.pieces(ids_of_text, 2, 7) == ["\u00e9", "", "", "\u2713", "b"]
    assert text.pieces([*ids_of_text[:1], 9999, -5], 0, 3) == ["a", "<9999>", "<-5>"]
