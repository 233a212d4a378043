"""Commands take words, then options, and say in one line what they expected."""

import pytest

from data_prep.__main__ import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["status"], "status: expected CONFIG or OUTPUT after it, found nothing"),
        (["card", "a", "b"], "card: expected OUTPUT after it, found a b"),
        (["fertility", "a", "--json", "true"], "found the option --json"),
        (["fetch", "a"], "fetch: expected SHARD_SET OUT after it, found a"),
        (["fetch", "a", "b", "--workers", "2"], "found the option --workers"),
        (["verify", "--workers", "2"], "verify: expected SHARD_SET ... after it, found nothing"),
        (["verify", "a", "--worker", "2"], "verify: worker: unknown key; did you mean workers?"),
        (["inspect", "a", "1", "2"], "inspect: expected SHARD_SET [ROWS] after it, found a 1 2"),
        (["stats", "a", "--json", "perhaps"], "stats: json: Input should be a valid boolean"),
        (["merge", "a", "b"], "merge: expected SHARD_SET SHARD_SET ... OUT after it, found a b"),
        (["split", "a", "--parts", "x=1,y=1"], "split: expected SHARD_SET OUT after it, found a"),
        (["convert", "a", "b", "c"], "convert: expected INPUT OUT after it, found a b c"),
        (
            ["convert", "a", "b", "--from", "mds", "--tokenizer", "t", "--row-group", "64"],
            "convert: row-group: unknown key; did you mean row_group?",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_a_command_expected_is_said_in_a_line(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_options_are_written_either_way(capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["--parts", "a=1"], ["--parts=a=1"]):
        assert main(["split", "no-set", "no-folder", *options]) == 2
        assert "--parts: 'a=1' is one part" in capsys.readouterr().err
