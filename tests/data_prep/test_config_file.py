"""Config files: every fault at once, the nearest name, overrides, and every shipped file."""

from pathlib import Path

import pytest
import yaml

from data_prep.config import CorpusConfig
from data_prep.config_file import (
    Section,
    load_config,
    parse_overrides,
    read_yaml,
    split_command_line,
    to_yaml,
    validate,
)
from data_prep.errors import ConfigError
from launch.evaluate import EvaluateConfig
from launch.report import ReportConfig
from pretrain.config import RunConfig
from tests import tiny


class Inner(Section):
    length: int = 3
    rate: float = 0.5


class Outer(Section):
    name: str
    inner: Inner = Inner()
    many: dict[str, Inner] = {}


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def test_all_faults_are_reported_together_with_the_nearest_name(tmp_path):
    path = write(tmp_path, "inner: {lenght: 4, rate: fast}\nmany: {a: {ratee: 1}}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, path)
    message = str(caught.value)
    assert len(message.splitlines()) == 4
    assert "inner.lenght: unknown key; did you mean length?" in message
    assert "many.a.ratee: unknown key; did you mean rate?" in message
    assert "name: missing" in message
    assert "inner.rate:" in message
    assert "'fast'" in message
    assert all(line.startswith(str(path)) for line in message.splitlines())


def test_a_number_may_be_written_without_a_point(tmp_path):
    # YAML 1.1 reads 1e-5 as text, and every recipe writes it so.
    values = read_yaml("{a: 1e-5, b: 2E+3, c: 1.5e-2, d: e5, e: 0x1e5, f: '1e-5'}")
    assert values == {"a": 1e-5, "b": 2000.0, "c": 0.015, "d": "e5", "e": 0x1E5, "f": "1e-5"}


def test_overrides_win_over_the_file_and_are_written_as_in_yaml(tmp_path):
    path = write(tmp_path, "name: a\ninner: {length: 1}\n")
    overrides = ["--inner.length", "7", "--inner.rate=1e-3", "--many", "{b: {length: 9}}"]
    config = load_config(Outer, path, overrides)
    assert (config.inner.length, config.inner.rate, config.many["b"].length) == (7, 1e-3, 9)


def test_a_fault_is_told_with_where_its_value_is_from(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(to_yaml(RunConfig.model_validate(tiny.run_config(tmp_path, {"a": tmp_path}))))
    values = yaml.safe_load(path.read_text()) | {"seed": "none"}
    path.write_text(yaml.safe_dump(values))
    overrides = ["--optimizer.learning_rte", "1", "--training.epochs", "1"]
    with pytest.raises(ConfigError) as caught:
        load_config(RunConfig, path, overrides)
    lines = str(caught.value).splitlines()
    assert sorted(line.partition(": ")[0] for line in lines) == [
        str(path),
        f"{path} with the command line",
        "command line",
    ]
    assert any("command line: optimizer.learning_rte: unknown key" in line for line in lines)


@pytest.mark.parametrize("arguments", [["stray"], ["--inner.length"], ["--inner.length", "{"]])
def test_a_broken_override_is_refused(arguments):
    with pytest.raises(ConfigError):
        parse_overrides(arguments)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("a: [", "not valid YAML"), ("- 1", "expected keys and values"), (None, "cannot read")],
)
def test_an_unreadable_file_is_one_line(text, complaint, tmp_path):
    path = write(tmp_path, text) if text else tmp_path / "absent.yaml"
    with pytest.raises(ConfigError, match=complaint) as caught:
        load_config(Outer, path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sources", "complaint"),
    [
        (
            {"a": {"format": "pubmed", "url": ["ftp.ncbi.nlm.nih.gov/pubmed"]}},
            "expected an address such as https",
        ),
        (
            {"a": {"format": "pubmed", "url": ["https:///pubmed"]}},
            "expected an address such as https",
        ),
        (
            {"a": {"format": "s2orc", "path": "x", "jats": {"citations": "keep"}}},
            "jats is for format jats or pmc, found s2orc",
        ),
        ({"a": {"format": "pubmed", "path": "x", "licence": "cc0"}}, "licence is for format jats"),
        ({"failed": {"format": "text", "path": "."}}, "cannot be called 'failed'"),
    ],
)
def test_a_source_that_could_never_be_read_is_refused(sources, complaint):
    with pytest.raises(ConfigError, match=complaint):
        validate(CorpusConfig, {"output": "out", "sources": sources}, "test")


def test_the_launchers_local_rank_is_no_override():
    arguments = ["--local_rank=1", "--config", "a.yaml", "--seed", "3", "--local-rank", "0"]
    assert split_command_line(arguments) == (Path("a.yaml"), ["--seed", "3"])


def test_a_resolved_config_reads_back_as_itself(tmp_path):
    config = load_config(RunConfig, tiny.ROOT / "configs/recipe/demo-pretrain.yaml")
    assert load_config(RunConfig, write(tmp_path, to_yaml(config))) == config


TYPES = {
    "corpus": CorpusConfig,
    "recipe": RunConfig,
    "evaluate": EvaluateConfig,
    "report": ReportConfig,
}


@pytest.mark.parametrize(
    "path", sorted((tiny.ROOT / "configs").rglob("*.yaml")), ids=lambda p: p.name
)
def test_every_shipped_config_is_valid(path):
    config = load_config(TYPES[path.parent.name], path)
    assert yaml.safe_load(path.read_text())
    if isinstance(config, RunConfig):
        assert (tiny.ROOT / config.deepspeed).is_file()
