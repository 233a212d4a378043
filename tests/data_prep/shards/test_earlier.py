"""What earlier stages left is packed only as what it is, and what they lost is named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.config import CorpusConfig, Decontaminate
from data_prep.config_file import validate
from data_prep.curate.identity import IdentifyStage
from data_prep.download.stage import download
from data_prep.download.transfer import Patience
from data_prep.errors import DataError
from data_prep.run.executor import run_stage
from data_prep.shards.build import PackStage, ShardSetStage
from data_prep.shards.earlier import curation_settings
from data_prep.shards.reader import ShardSet
from data_prep.units import Stage, Unit
from tests.data_prep.shards.curated import run_all


class Decided(Stage):
    """A unit with the settings of the stage identify, and nothing in it."""

    name, version = "identify", 1

    def __init__(self, config: CorpusConfig):
        stage = IdentifyStage(config)
        self.directory, self.settings = stage.directory, stage.settings

    def units(self) -> list[Unit]:
        return [Unit("all", {}, 1)]

    def run_unit(self, unit: Unit, folder: Path) -> dict[str, Any]:
        return {}


def with_curate(config: CorpusConfig, **changes: Any) -> CorpusConfig:
    return config.model_copy(update={"curate": config.curate.model_copy(update=changes)})


def test_what_could_not_be_downloaded_is_named_as_missing(
    tmp_path: Path, config: Callable[..., CorpusConfig]
) -> None:
    source = {"format": "text", "path": str(tmp_path / "in")}
    gone = {"format": "text", "url": ["http://127.0.0.1:9/"]}
    (tmp_path / "in").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "in" / name).write_text(name)
    (tmp_path / "in" / "b.txt.md5").write_text("0" * 32)
    values = config(tmp_path).model_dump() | {"sources": {"words": source, "other": gone}}
    settings = validate(CorpusConfig, values, "test")
    patience = Patience(attempts=1, first_s=0.01, longest_s=0.01)

    def missing() -> dict[str, list[str]]:
        download(settings, patience)
        run_all(settings)
        names = ("words-train", "other-train")
        return {name: ShardSet(tmp_path / "shards" / name).manifest.missing for name in names}

    assert missing() == {"words-train": ["download/words/b.txt"], "other-train": ["download/other"]}
    (tmp_path / "in" / "b.txt.md5").unlink()
    assert missing() == {"words-train": [], "other-train": ["download/other"]}
    # The source is now a local folder that is there.
    values |= {"sources": {"words": source, "other": source}}
    settings = validate(CorpusConfig, values, "test")
    assert missing() == {"words-train": [], "other-train": []}


def test_units_curated_by_other_settings_are_not_packed(
    tmp_path: Path, config: Callable[..., CorpusConfig]
) -> None:
    settings = config(tmp_path)
    run_stage(Decided(settings))
    run_all(settings)
    manifest = ShardSet(tmp_path / "shards" / "words-train").manifest
    assert manifest.settings["curate"] == {
        name: sorted(value) if isinstance(value, list) else value
        for name, value in settings.curate.model_dump(mode="json").items()
    } | {"since": False}
    # All but the split is decided before, in the stage identify.
    for change in ({"min_characters": 7}, {"drop_retracted": False}, {"validation_fraction": 0.5}):
        changed = with_curate(settings, **change)
        (name,) = change
        for stage in (PackStage(changed), ShardSetStage(changed)):
            with pytest.raises(DataError, match=rf"\({name}\); run the stage curate"):
                run_stage(stage)


def test_a_benchmark_is_named_in_a_set_and_not_located(
    tmp_path: Path, config: Callable[..., CorpusConfig]
) -> None:
    values = {"benchmarks": [{"name": "exam", "path": str(tmp_path / "q.jsonl"), "fields": ["q"]}]}
    settings = with_curate(
        config(tmp_path), decontaminate=validate(Decontaminate, values, "test"), since=tmp_path
    )
    curation = curation_settings(settings)
    assert curation["decontaminate"]["benchmarks"] == [{"name": "exam", "fields": ["q"]}]
    assert str(tmp_path) not in str(curation)
