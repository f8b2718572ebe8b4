"""The run file loader: overrides, units, provenance, and errors that help."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from forklight_core.errors import ConfigError, NotFoundError
from forklight_core.runfile import describe, dump_run_file, load_run_file, load_with_sources, parse_override
from forklight_core.runfile.locate import key_lines
from forklight_core.runfile.units import parse_bytes, parse_count, parse_seconds


def write(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text)
    return path


def test_values_are_the_files_when_the_rest_is_default(tmp_path: Path) -> None:
    path = write(tmp_path, '[trainer]\nsteps = 7\nlearning_rate = 1e-4\n[run]\nname = "small-test"\n')
    run_file = load_run_file(path)
    assert (run_file.trainer.steps, run_file.trainer.learning_rate, run_file.run.name) == (
        7,
        1e-4,
        "small-test",
    )
    assert run_file.trainer.adam_eps == 1e-15


def test_unknown_key_names_line_and_nearest_when_misspelt(tmp_path: Path) -> None:
    path = write(tmp_path, "\n[trainer]\n# a comment\nlearnin_rate = 1\n")
    with pytest.raises(ConfigError) as raised:
        load_run_file(path)
    assert f"unknown key trainer.learnin_rate at {path}:4; did you mean trainer.learning_rate?" in str(
        raised.value
    )


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("trainr.steps=1", "trainer"),
        ("steps=1", "trainer.steps"),
        ("trainer.group_size=1", "sampling.group_size"),
        ("sampling.temprature=1", "sampling.temperature"),
    ],
)
def test_nearest_key_is_suggested_when_section_or_leaf_is_wrong(
    tmp_path: Path, typed: str, meant: str
) -> None:
    with pytest.raises(ConfigError, match=rf"did you mean {meant}\?"):
        load_run_file(write(tmp_path, ""), [typed])


def test_no_name_is_suggested_when_nothing_is_near(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        load_run_file(write(tmp_path, "zzzz = 1\n"))
    assert "did you mean" not in str(raised.value)


def test_an_address_is_refused_without_telling_its_password_when_it_has_one(tmp_path: Path) -> None:
    path = write(tmp_path, '[reward.judge]\nendpoints = ["http://me:secret@judge:8000"]\n')
    with pytest.raises(ConfigError) as caught:
        load_run_file(path)
    assert "secret" not in str(caught.value)
    assert "http://***@judge:8000" in str(caught.value)
    assert "without user or password" in str(caught.value) and "FORKLIGHT_JUDGE_API_KEY" in str(caught.value)


def test_all_problems_are_told_at_once_when_there_are_several(tmp_path: Path) -> None:
    path = write(tmp_path, '[trainer]\nsteps = 0\nstepz = 1\n[sampling]\nmax_new_tokens = "80q"\n')
    with pytest.raises(ConfigError) as raised:
        load_run_file(path, ["run.seed=abc"])
    message = str(raised.value)
    assert "4 problems" in message
    for part in (
        f"trainer.steps at {path}:2",
        "trainer.stepz",
        "'80q' has the unknown unit 'q'",
        "--set run.seed=abc",
    ):
        assert part in message


def test_overrides_win_and_are_recorded_when_given(tmp_path: Path) -> None:
    path = write(tmp_path, "[trainer]\nsteps = 7\n")
    loaded = load_with_sources(path, ["trainer.steps=9", "buffer.lease_s=2m", "prompts.train=data/a b.jsonl"])
    assert loaded.run_file.trainer.steps == 9
    assert loaded.run_file.buffer.lease_s == 120.0
    assert loaded.run_file.prompts.train == "data/a b.jsonl"
    assert loaded.sources["trainer.steps"] == "--set trainer.steps=9"
    assert loaded.sources["trainer.weight_decay"] == "default"
    assert load_with_sources(path).sources["trainer.steps"] == f"{path}:2"


@pytest.mark.parametrize("override", ["trainer.steps", "=3", "trainer.=3", ".steps=3"])
def test_override_is_refused_when_it_is_not_key_value(override: str) -> None:
    with pytest.raises(ConfigError, match="section.key=value"):
        parse_override(override)


def test_override_is_refused_when_it_goes_through_a_value(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="steps is a value"):
        load_run_file(write(tmp_path, "[trainer]\nsteps = 7\n"), ["trainer.steps.more=1"])


def test_sections_that_cannot_work_together_are_refused_when_loaded(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no group could ever be trained on[\s\S]*no batch could ever be filled"
    ):
        load_run_file(write(tmp_path, ""), ["sampling.group_size=1", "buffer.max_open_groups=1"])


def test_tools_are_off_by_default_and_bounded_when_named(tmp_path: Path) -> None:
    assert load_run_file(write(tmp_path, "")).tools.names == ()
    text = '[tools]\nnames = ["python"]\nmax_output_tokens = "1Ki"\ntimeout_s = "5s"\n'
    found = load_run_file(write(tmp_path, text))
    assert (found.tools.names, found.tools.max_output_tokens, found.tools.timeout_s) == (
        ("python",),
        1024,
        5.0,
    )
    again = tmp_path / "again.toml"
    again.write_text(dump_run_file(found))
    assert load_run_file(again) == found


@pytest.mark.parametrize(
    ("tools", "problem"),
    [
        ('names = ["web"]', "python"),
        ('names = ["python", "python"]', "twice"),
        ('names = ["python"]\nmax_output_tokens = 10', "max_output_tokens"),
        (
            'names = ["python"]\nmax_output_tokens = "16Ki"\n[sampling]\nmax_new_tokens = "16Ki"',
            "fill the whole",
        ),
        ('names = ["python"]\ntimeout_s = "6m"', "timeout_s"),
    ],
)
def test_tools_are_refused_when_they_could_not_work(tmp_path: Path, tools: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_run_file(write(tmp_path, f"[tools]\n{tools}\n"))


def test_missing_and_broken_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"nothing\.toml"):
        load_run_file(tmp_path / "nothing.toml")
    with pytest.raises(ConfigError, match=r"not valid TOML.*line 2"):
        load_run_file(write(tmp_path, "[run]\nname =\n"))


def test_dump_loads_to_an_equal_file_when_values_are_awkward(tmp_path: Path) -> None:
    run_file = load_run_file(
        write(tmp_path, '[prompts]\ntrain = "a \\"b\\" \\\\ c"\n'),
        [
            "recipe.mask_eps_low=0.1",
            "trainer.learning_rate=1.2345678901234567e-7",
            "run.seed=9223372036854775807",
        ],
    )
    dumped = dump_run_file(run_file)
    again = tmp_path / "again.toml"
    again.write_text(dumped)
    assert load_run_file(again) == run_file
    assert dump_run_file(load_run_file(again)) == dumped


def test_lines_are_found_when_statements_span_lines() -> None:
    text = 'a = """\nb = 1\n"""\n[s]\nc = [\n  1,\n]\nd.e = 2\n'
    assert key_lines(text) == {("a",): 1, ("s",): 4, ("s", "c"): 5, ("s", "d"): 8, ("s", "d", "e"): 8}


SCHEDULE = """[[recipe.schedule]]
from_step = 10
eps_high = 2

[[recipe.schedule]]
from_window = "64Ki"
grad_clip = 0.5
"""


def test_entries_of_a_schedule_are_read_and_written_back_when_in_order(tmp_path: Path) -> None:
    found = load_run_file(write(tmp_path, SCHEDULE))
    first, second = found.recipe.schedule
    assert (first.from_step, first.eps_high, first.grad_clip) == (10, 2.0, None)
    assert (second.from_window, second.grad_clip) == (65536, 0.5)
    again = tmp_path / "again.toml"
    again.write_text(dump_run_file(found))
    assert load_run_file(again) == found


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("eps_hihg = 1", r"schedule\.1\.eps_hihg at .*:8; did you mean recipe\.schedule\.1\.eps_high\?"),
        ('learning_rate = "x"', r"recipe\.schedule\.1\.learning_rate at .*:8: .*number"),
        ("from_step = 20", r"recipe\.schedule\.1 at .*:5: give from_step or from_window, and not both"),
        ("over_steps = 4", r"recipe\.schedule\.1 at .*:5: the entry from_window = 65536 has over_steps"),
    ],
)
def test_entry_of_a_schedule_is_named_when_it_is_wrong(tmp_path: Path, line: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_run_file(write(tmp_path, f"{SCHEDULE}{line}\n"))


def test_schema_explains_every_field_when_described() -> None:
    schema = json.loads(describe())
    sections = [value for name, value in schema["$defs"].items() if name.endswith("Section")]
    assert len(sections) >= 12
    for section in sections:
        assert all(field.get("description") for field in section["properties"].values()), section["title"]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("80k", 80_000),
        ("80K", 80_000),
        ("80Ki", 81_920),
        ("1.5M", 1_500_000),
        (" 7 ", 7),
        ("1_000", 1_000),
        ("2Gi", 2**31),
    ],
)
def test_counts_are_read_when_they_have_units(text: str, number: int) -> None:
    assert parse_count(text) == number


@pytest.mark.parametrize(
    ("text", "number"), [("5MiB", 5 * 2**20), ("2GB", 2 * 10**9), ("512B", 512), ("64", 64)]
)
def test_bytes_are_read_when_they_have_units(text: str, number: int) -> None:
    assert parse_bytes(text) == number


@pytest.mark.parametrize(
    ("text", "number"), [("500ms", 0.5), ("30s", 30.0), ("5m", 300.0), ("1.5h", 5400.0), ("2", 2.0)]
)
def test_seconds_are_read_when_they_have_units(text: str, number: float) -> None:
    assert parse_seconds(text) == number


@pytest.mark.parametrize("text", ["", "k", "1e3k", "-5", "80m", "0.0001k", "5 MiB"])
def test_counts_are_refused_when_they_make_no_sense(text: str) -> None:
    with pytest.raises(ValueError, match="not|unit"):
        parse_count(text)
