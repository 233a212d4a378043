"""What a wrong config, broken data or a full disk gets: one clear line, and nothing written is lost."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests import tiny


def refused(ended: subprocess.CompletedProcess[str], code: int) -> str:
    """The message of a command that was refused, without a traceback."""
    assert ended.returncode == code, ended.stderr[-3000:]
    assert "Traceback" not in ended.stderr
    return ended.stderr


def test_all_faults_of_a_config_are_told_at_once_before_torch_is_imported(values, tmp_path):
    wrong = values(tmp_path / "run", optimizer__learning_rte=1, training__steps="many")
    wrong["data"]["shufle_groups"] = 3
    config = tiny.write_config(tmp_path / "run.yaml", wrong)
    trap = tmp_path / "trap"
    trap.mkdir()
    for module in ("torch", "deepspeed", "transformers"):
        (trap / f"{module}.py").write_text("raise ImportError('imported too early')")
    began = time.monotonic()
    ended = tiny.run_alone(config, "pretrain", PYTHONPATH=str(trap))
    assert time.monotonic() - began < 10
    message = refused(ended, 2)
    assert "optimizer.learning_rte: unknown key; did you mean learning_rate?" in message
    assert "data.shufle_groups: unknown key; did you mean shuffle_groups?" in message
    assert "training.steps:" in message
    assert "'many'" in message
    assert not (tmp_path / "run").exists()


def test_a_port_that_is_taken_is_named_with_what_gives_another(values, tmp_path):
    config = tiny.write_config(tmp_path / "run.yaml", values(tmp_path / "run"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = tiny.run_alone(config, "pretrain", MASTER_PORT=port)
    message = refused(ended, 1)
    assert f"the process group: port {port} is taken" in message
    assert "MASTER_PORT=PORT" in message


def test_more_ranks_than_sequences_in_a_step_are_refused(values, tmp_path):
    config = tiny.write_config(tmp_path / "run.yaml", values(tmp_path / "run"))
    ended = tiny.run_alone(config, "pretrain", WORLD_SIZE="8", RANK="0", LOCAL_RANK="0")
    message = refused(ended, 2)
    told = "8 ranks share a global batch of 5 sequences; start at most 5 ranks"
    assert f"training.global_batch: {told}" in message
    phases = [{"from_step": 4, "weights": {"a": 1}}, {"from_step": 9, "global_batch": 3}]
    changed = values(tmp_path / "run", phases=phases)
    config = tiny.write_config(tmp_path / "run.yaml", changed)
    ended = tiny.run_alone(config, "pretrain", WORLD_SIZE="4", RANK="0", LOCAL_RANK="0")
    message = refused(ended, 2)
    assert "phases.1.global_batch: 4 ranks share a global batch of 3 sequences" in message


def test_a_batch_that_does_not_divide_is_refused_where_require_even_asks(values, tmp_path):
    """One rank, two rows at once: 5 rows leave one alone, 7 in a phase as well, 6 do not."""
    even = values(tmp_path / "run", data__require_even=True, training__steps=3, phases=[])
    config = tiny.write_config(tmp_path / "run.yaml", even)
    told = "sequences is no multiple of 1 ranks x micro-batches of 2"
    message = refused(tiny.run_alone(config), 2)
    assert f"training.global_batch: a global batch of 5 {told}" in message
    assert not (tmp_path / "run").exists()

    even["training"]["global_batch"] = 6
    phased = even | {"phases": [{"from_step": 1, "global_batch": 7}]}
    message = refused(tiny.run_alone(tiny.write_config(config, phased)), 2)
    assert f"phases.0.global_batch: a global batch of 7 {told}" in message

    ended = tiny.run_alone(tiny.write_config(config, even))
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert list(tiny.losses(tmp_path / "run")) == [1, 2, 3]


def test_ranks_that_would_read_other_shards_are_refused(values, sets, tmp_path):
    port = str(tiny.free_port())
    ranks = []
    for rank, read in enumerate((sets["a"], sets["b"])):
        changed = values(tmp_path / "run", data__train={"a": {"path": str(read)}}, phases=[])
        config = tiny.write_config(tmp_path / f"rank-{rank}.yaml", changed)
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        command = [sys.executable, str(tiny.ROOT / "launch/pretrain.py"), "--config", str(config)]
        environment = tiny.ENVIRONMENT | place | {"MASTER_PORT": port}
        ranks.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    told = "".join(process.communicate(timeout=120)[1] for process in ranks)
    assert [process.returncode for process in ranks] == [1, 1]
    assert "Traceback" not in told
    assert told.count("rank 1 would train on something else than rank 0 (shards: was") == 1


def test_a_shard_changed_by_one_byte_is_named(values, sets, tmp_path):
    broken = tmp_path / "sets" / "a"
    shutil.copytree(sets["a"], broken)
    shard = next(broken.glob("shard*.parquet"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 1
    shard.unlink()  # it may be a hard link
    shard.write_bytes(content)
    train = {"a": {"path": str(broken)}}
    config = tiny.write_config(
        tmp_path / "run.yaml", values(tmp_path / "run", data__train=train, phases=[])
    )
    message = refused(tiny.run_alone(config), 1)
    assert str(shard) in message
    assert "row group" in message


def test_shards_of_another_tokenizer_are_refused(values, sets, base_model, tmp_path):
    other = tmp_path / "other model"
    shutil.copytree(base_model, other)
    tiny.byte_tokenizer(other)
    definition = json.loads((other / "tokenizer.json").read_text())
    vocabulary = definition["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (other / "tokenizer.json").write_text(json.dumps(definition))
    config = tiny.write_config(
        tmp_path / "run.yaml", values(tmp_path / "run", model={"path": str(other)})
    )
    message = refused(tiny.run_alone(config), 2)
    assert "model.path" in message
    assert "the shards were built with" in message


@pytest.mark.parametrize(
    ("changes", "code", "complaint"),
    [
        (
            {"data__train": {"a": {"path": "/nowhere"}}},
            2,
            "data.train.a.path: found no folder /nowhere",
        ),
        ({"deepspeed": "/nowhere.json"}, 2, "deepspeed: cannot read /nowhere.json"),
    ],
)
def test_what_is_not_there_is_named_within_seconds(changes, code, complaint, values, tmp_path):
    config = tiny.write_config(tmp_path / "run.yaml", values(tmp_path / "run", **changes))
    assert complaint in refused(tiny.run_alone(config), code)


def test_a_folder_that_cannot_be_written_is_named(values, tmp_path):
    config = tiny.write_config(tmp_path / "run.yaml", values(Path("/proc/run")))
    message = refused(tiny.run_alone(config), 1)
    assert message.startswith("/proc/run")


def test_a_misspelt_lora_target_and_missing_weights_are_refused(values, base_model, tmp_path):
    lora = {"path": str(base_model), "lora": {"targets": ["k_proj", "v_prj"]}}
    config = tiny.write_config(tmp_path / "run.yaml", values(tmp_path / "run", model=lora))
    message = refused(tiny.run_alone(config), 2)
    assert "model.lora.targets: the model has no module v_prj; did you mean v_proj?" in message

    partial = tmp_path / "partial"
    shutil.copytree(base_model, partial)
    weights = load_file(partial / "model.safetensors")
    weights["other"] = weights.pop("model.norm.weight")
    save_file(weights, partial / "model.safetensors", {"format": "pt"})
    config = tiny.write_config(
        tmp_path / "run.yaml", values(tmp_path / "run", model={"path": str(partial)})
    )
    message = refused(tiny.run_alone(config), 1)
    assert "has no weights for model.norm.weight (1 missing)" in message


def test_a_model_shorter_than_the_sequences_is_refused(values, tmp_path):
    short = {"config": tiny.GPT2 | {"n_positions": 16}}
    config = tiny.write_config(tmp_path / "run.yaml", values(tmp_path / "run", model=short))
    message = refused(tiny.run_alone(config), 2)
    assert "it has 16 positions, the shards' sequences have 32 tokens" in message


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1.5 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-o", "size=1500k", "tmpfs", str(folder)]
    mounted = subprocess.run(["mount", "-t", "tmpfs", *options], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_stops_the_run_and_leaves_its_last_checkpoint_whole(
    values, small_disk, tmp_path
):
    run = small_disk / "run"
    changes = {"checkpoint": {"every_steps": 2, "keep": 10}, "training__steps": 12}
    config = tiny.write_config(tmp_path / "run.yaml", values(run, **changes))
    message = refused(tiny.run_alone(config), 1)
    assert "GB free" in message or "No space left" in message
    assert "start again" in message
    saved = sorted((run / "checkpoints").glob("step-*"))
    assert saved
    for folder in saved:
        for name, about in json.loads((folder / "manifest.json").read_text()).items():
            assert (folder / name).stat().st_size == about["bytes"]

    # With space made, here by keeping fewer, the same run goes on.
    for folder in saved[:-1]:
        shutil.rmtree(folder)
    config = tiny.write_config(
        tmp_path / "run.yaml",
        values(run, **changes | {"checkpoint": {"every_steps": 6, "keep": 1}}),
    )
    ended = tiny.run_alone(config)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert list(tiny.losses(run)) == list(range(1, 13))
    assert [path.name for path in (run / "checkpoints").glob("step-*")] == ["step-00000012"]


def test_data_prep_on_a_full_disk_says_so(small_disk, tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    # Random letters do not compress: more than the disk holds.
    lines = [json.dumps({"text": os.urandom(4000).hex()}) for _ in range(400)]
    (texts / "large.jsonl").write_text("\n".join(lines))
    config = tmp_path / "corpus.yaml"
    settings = {"sources": {"notes": {"format": "text", "path": str(texts)}}}
    config.write_text(json.dumps({"output": str(small_disk / "corpus"), **settings}))
    ended = subprocess.run(
        [sys.executable, "-m", "data_prep", "all", str(config)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    message = refused(ended, 1)
    assert "notes/large" in message
    assert "No space left" in message or "disk full?" in message
