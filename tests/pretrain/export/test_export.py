"""What an export holds, checked against DeepSpeed's, peft's and transformers' own ways to the same weights."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from data_prep.errors import ConfigError, DataError, ProjectError
from data_prep.files import write_json
from pretrain.checkpoints.names import STATE, name_of
from pretrain.export.config import ExportConfig
from pretrain.export.export import export
from pretrain.export.lazy_weights import LazyTensor, checkpoint_weights, of_tensor
from pretrain.export.safetensors_files import divide, write_weights
from pretrain.scoring.probe import PROBE_TOKENS, compare, probe, probe_folder, probe_tokens
from tests import tiny

ZERO = Path(__file__).with_name("zero_checkpoints.py")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.shard_set(tmp_path_factory.mktemp("sets") / "a", 60, 0)


def base_model(folder: Path, architecture: dict, **changes) -> Path:
    torch.manual_seed(3)
    settings = architecture | changes
    config = AutoConfig.for_model(settings.pop("model_type"), vocab_size=257, **settings)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder


def trained(folder: Path, shards: Path, **changes) -> Path:
    """A run of three steps on one rank."""
    short = {"training__steps": 3, "optimizer__learning_rate": 1e-2, "checkpoint": {}}
    values = tiny.run_config(folder / "run", {"a": shards}, **(short | changes))
    ended = tiny.run_alone(tiny.write_config(folder / "run.yaml", values))
    assert ended.returncode == 0, ended.stderr[-3000:]
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, shards: Path, communication_op) -> Path:
    """A GPT-2 from scratch, its head tied, and the probe of it beside its checkpoint."""
    run = trained(tmp_path_factory.mktemp("gpt2"), shards)
    with_probe(run, 3)
    return run


def with_probe(run: Path, step: int) -> None:
    """Write what the engine says, computed by transformers alone from DeepSpeed's own consolidation."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    weights = get_fp32_state_dict_from_zero_checkpoint(str(run / "checkpoints"), name_of(step))
    config = AutoConfig.from_pretrained(run / "model")
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model.load_state_dict(weights, strict=False)
    model.tie_weights()
    said = probe(
        lambda tokens, positions: model(tokens, position_ids=positions).logits,
        config.vocab_size,
        torch.device("cpu"),
    )
    path = run / "checkpoints" / name_of(step)
    state = json.loads((path / STATE).read_text()) | {"probe": said}
    write_json(path / STATE, state)
    forget_sum(path, STATE)


def forget_sum(checkpoint: Path, name: str) -> None:
    """Take a file that a test changes out of the checkpoint's manifest."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest.pop(name)
    write_json(checkpoint / "manifest.json", manifest)


def write_zero_checkpoints(folder: Path, *options: str) -> None:
    """Run tests/pretrain/export/zero_checkpoints.py on two ranks."""
    deepspeed = str(Path(sys.executable).with_name("deepspeed"))
    command = [deepspeed, "--no_local_rank", "--num_gpus", "2"]
    command += ["--master_port", str(tiny.free_port()), str(ZERO), str(folder), *options]
    environment = tiny.ENVIRONMENT | {"PYTHONPATH": str(tiny.ROOT)}
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)


def test_a_run_without_adapters_has_nothing_to_leave_unmerged(run, tmp_path):
    with pytest.raises(ConfigError, match=r"^merge: the run in .* has no adapters"):
        export(ExportConfig(run=run, output=tmp_path / "out", merge=False))


@pytest.mark.long
def test_weights_of_every_stage_are_what_the_engine_held(tmp_path, communication_op):
    write_zero_checkpoints(tmp_path)
    cases = sorted(tmp_path.iterdir())
    assert [case.name for case in cases] == ["zero1-bf16", "zero2-fp32", "zero3-bf16"]
    for case in cases:
        held = torch.load(case / "weights.pt")
        found = checkpoint_weights(case / "checkpoint")
        precision = torch.bfloat16 if "bf16" in case.name else torch.float32
        for name, tensor in held.items():
            # The engine computes with the rounded weights, the checkpoint has those of the optimizer.
            assert torch.equal(found[name].read().to(precision).float(), tensor), (case, name)


def test_a_sharded_export_equals_deepspeeds_consolidation_and_ties_again(run, tmp_path, capsys):
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    export(ExportConfig(run=run, output=tmp_path / "model", shard_gb=4e-5))
    assert "compared with the engine" in capsys.readouterr().err
    files = sorted((tmp_path / "model").glob("*.safetensors"))
    assert len(files) > 2
    index = json.loads((tmp_path / "model/model.safetensors.index.json").read_text())
    inside = {name: load_file(path) for path in files for name in (path.name,)}
    assert {key: name for name, of in inside.items() for key in of} == index["weight_map"]
    assert "lm_head.weight" not in index["weight_map"]
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert model.lm_head.weight is model.transformer.wte.weight
    expected = get_fp32_state_dict_from_zero_checkpoint(str(run / "checkpoints"), name_of(3))
    assert len(expected) == len(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_half_precision_is_the_rounded_weights_and_passes_the_comparison(run, tmp_path):
    export(ExportConfig(run=run, output=tmp_path / "fp32"))
    whole = load_file(tmp_path / "fp32/model.safetensors")
    for name, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        export(ExportConfig(run=run, output=tmp_path / name, dtype=name))
        half = load_file(tmp_path / name / "model.safetensors")
        assert all(torch.equal(half[key], tensor.to(dtype)) for key, tensor in whole.items())
        assert AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype="auto").dtype == dtype


def test_an_export_that_says_something_else_than_the_engine_is_refused(run, tmp_path):
    broken = shutil.copytree(run, tmp_path / "run")
    checkpoint = broken / "checkpoints" / name_of(3)
    file = next(checkpoint.glob("*optim_states.pt"))
    content = torch.load(file, weights_only=False)
    flat = content["optimizer_state_dict"]["fp32_flat_groups"][0].detach()
    flat[: 257 * 32] = flat[: 257 * 32].flip(0)  # the embeddings' rows
    torch.save(content, file)
    with pytest.raises(DataError, match=r"optim_states.pt: missing, or not what was written"):
        export(ExportConfig(run=broken, output=tmp_path / "model"))
    forget_sum(checkpoint, file.name)
    with pytest.raises(DataError, match="is not the one that was trained"):
        export(ExportConfig(run=broken, output=tmp_path / "model"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    export(ExportConfig(run=broken, output=tmp_path / "model", check=False))


def test_a_killed_export_leaves_nothing_under_its_name_and_the_next_one_clears_up(run, tmp_path):
    killed = (
        "import os, sys; from pathlib import Path; import pretrain.export.safetensors_files as files\n"
        "from pretrain.export.export import export; from pretrain.export.config import ExportConfig\n"
        "real = files.stored_bytes\n"
        "calls = []\n"
        "def stop(path, weights, dtype, written):\n"
        "    path.write_bytes(b'half'); os.kill(os.getpid(), 9)\n"
        "files._write_file = stop\n"
        "export(ExportConfig(run=Path(sys.argv[1]), output=Path(sys.argv[2])))\n"
    )
    command = [sys.executable, "-c", killed, str(run), str(tmp_path / "model")]
    environment = tiny.ENVIRONMENT | {"PYTHONPATH": str(tiny.ROOT)}
    ended = subprocess.run(command, env=environment, check=False, capture_output=True, timeout=120)
    assert ended.returncode == -9
    (left,) = tmp_path.iterdir()
    assert re.fullmatch(r"\.model\..*\.partial", left.name)
    export(ExportConfig(run=run, output=tmp_path / "model"))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_disk_that_is_too_small_is_named_before_anything_is_written(run, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(ProjectError, match=r"output: .* has 0.00 GB free, the model needs"):
        export(ExportConfig(run=run, output=tmp_path / "model"))
    assert not (tmp_path / "model").exists()


def test_adapters_merge_as_peft_merges_them(tmp_path, shards, communication_op):
    # GPT-2 keeps most of its matrices transposed.
    base = base_model(tmp_path / "base", tiny.GPT2)
    run = trained(
        tmp_path,
        shards,
        model={"path": str(base), "lora": {"rank": 2, "alpha": 6}},
        training__precision="bf16",
    )
    export(ExportConfig(run=run, output=tmp_path / "merged"))
    export(ExportConfig(run=run, output=tmp_path / "adapter", merge=False))
    fresh = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(fresh, tmp_path / "adapter")
    expected = adapted.merge_and_unload().state_dict()
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    began = load_file(base / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-7, msg=name)
    moved = [name for name, tensor in began.items() if not torch.equal(tensor, found[name])]
    # Every linear layer of both blocks, and nothing else.
    assert len(moved) == 8
    assert all(name.endswith("weight") and ".h." in name for name in moved)


def test_frozen_modules_come_from_the_base_model_whatever_its_files_call_them(
    tmp_path, shards, communication_op
):
    base = base_model(tmp_path / "base", tiny.LLAMA)
    run = trained(
        tmp_path, shards, model={"path": str(base), "freeze": ["model.embed_tokens", "lm_head"]}
    )
    # As files of a base model without a head are written.
    began = load_file(base / "model.safetensors")
    renamed = {name.removeprefix("model."): tensor for name, tensor in began.items()}
    save_file(renamed, base / "model.safetensors", metadata={"format": "pt"})
    export(ExportConfig(run=run, output=tmp_path / "model"))
    found = load_file(tmp_path / "model/model.safetensors")
    same = {name for name, tensor in began.items() if torch.equal(tensor, found[name])}
    assert same == {"model.embed_tokens.weight", "lm_head.weight"}


def test_before_training_a_model_from_scratch_is_the_draw_of_its_seed(run, tmp_path):
    export(ExportConfig(run=run, output=tmp_path / "before", step=0))
    torch.manual_seed(7)
    config = AutoConfig.from_pretrained(run / "model")
    drawn = AutoModelForCausalLM.from_config(config, dtype=torch.float32).state_dict()
    found = load_file(tmp_path / "before/model.safetensors")
    assert all(torch.equal(tensor, drawn[name]) for name, tensor in found.items())


def test_mistakes_are_one_line(run, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    for changes, message in (
        ({"output": tmp_path / "full"}, "is not empty"),
        ({"run": tmp_path}, "holds no config.yaml"),
        ({"step": 2}, "step: found 2, expected one of 3"),
        ({"evaluation": run / "config.yaml"}, "is not what launch/evaluate.py writes"),
    ):
        values = {"run": run, "output": tmp_path / "new"} | changes
        with pytest.raises(ConfigError, match=message) as caught:
            export(ExportConfig(**values))
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.long
def test_memory_is_that_of_the_largest_tensor_and_not_of_the_model(
    tmp_path, shards, communication_op
):
    run = tmp_path / "run"
    write_zero_checkpoints(run, "LARGE")
    values = tiny.run_config(run, {"a": shards}, training__precision="bf16")
    tiny.write_config(run / "config.yaml", values)
    write_json(run / "deepspeed.json", {})
    checkpoint = run / "checkpoints" / name_of(1)
    write_json(checkpoint / "manifest.json", {})
    write_json(checkpoint / STATE, {"step": 1})
    script = (
        "import sys; from pathlib import Path; from pretrain.export.export import export\n"
        "from pretrain.export.config import ExportConfig; from pretrain.scoring.probe import probe_folder\n"
        "print('imported', flush=True); sys.stdin.readline()\n"
        "folder = export(ExportConfig(run=Path(sys.argv[1]), output=Path(sys.argv[2])))\n"
        "assert all(value == value for value in probe_folder(folder))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(run), str(tmp_path / "model")],
        env=tiny.ENVIRONMENT | {"PYTHONPATH": str(tiny.ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    process.stdout.readline()
    before = peak = anonymous_bytes(process.pid)
    process.stdin.write("go\n")
    process.stdin.flush()
    while process.poll() is None:
        peak = max(peak, anonymous_bytes(process.pid))
        time.sleep(0.005)
    assert process.returncode == 0
    size = (tmp_path / "model/model.safetensors").stat().st_size
    largest = 32000 * 1024  # elements of the embeddings
    print(f"model {size / 1e6:.0f} MB, export held {(peak - before) / 1e6:.0f} MB")
    assert size > 1.3e9
    # Joined in fp32 and written as such, and what programs and libraries add.
    assert peak - before < 12 * largest + 150e6
    assert peak - before < size / 2


def anonymous_bytes(pid: int) -> int:
    """Memory of a process that no file stands behind; 0 once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    return 1024 * int(found[1]) if found else 0


# ---- files ---------------------------------------------------------------------------------


def test_files_are_those_of_the_safetensors_library_and_hold_one_tensor_at_a_time(tmp_path):
    torch.manual_seed(0)
    tensors = {
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "counts": torch.arange(5),
        "transposed": torch.randn(3, 7).T,
        "whole": torch.randn(2, 3, 5),
    }
    held: list[str] = []

    def lazily(name: str) -> LazyTensor:
        def read() -> torch.Tensor:
            held.append(name)
            return tensors[name]

        return LazyTensor(tuple(tensors[name].shape), tensors[name].dtype, read)

    sizes: list[int] = []
    weights = {name: lazily(name) for name in tensors}
    write_weights(tmp_path, weights, torch.bfloat16, 1 << 20, sizes.append)
    found = load_file(tmp_path / "model.safetensors")
    assert held == list(tensors)
    for name, tensor in tensors.items():
        expected = tensor if name == "counts" else tensor.to(torch.bfloat16)
        assert torch.equal(found[name], expected)
        assert found[name].dtype == expected.dtype
    assert sizes == [found[name].nbytes for name in tensors]


def test_no_file_is_larger_than_asked_unless_one_tensor_is():
    sizes = {"a": 10, "b": 20, "c": 5, "d": 100, "e": 1, "f": 29}
    weights = {name: of_tensor(torch.zeros(size)) for name, size in sizes.items()}
    divided = divide(weights, torch.float32, 4 * 30)
    assert [name for names in divided for name in names] == list(sizes)
    assert divided == [["a", "b"], ["c"], ["d"], ["e", "f"]]


# ---- the probe -----------------------------------------------------------------------------


def test_the_probe_is_the_log_probability_of_each_token_of_a_fixed_row(tmp_path):
    folder = base_model(tmp_path / "model", tiny.LLAMA, tie_word_embeddings=True)
    model = AutoModelForCausalLM.from_pretrained(folder).double().eval()
    tokens = probe_tokens(257)
    assert tokens.shape == (1, PROBE_TOKENS)
    assert len(set(tokens[0].tolist())) > PROBE_TOKENS // 2
    with torch.no_grad():
        spread = model(tokens).logits[0].log_softmax(-1)
    expected = [spread[place, tokens[0, place + 1]].item() for place in range(PROBE_TOKENS - 1)]
    assert probe_folder(folder) == pytest.approx(expected, abs=1e-5)


def test_a_difference_beyond_rounding_is_refused_and_so_is_no_number():
    said = [-5.0, -6.0]
    assert compare([-5.0, -6.0005], said, torch.float32) == pytest.approx(5e-4)
    for wrong in ([-5.0, -6.01], [-5.0, float("nan")]):
        with pytest.raises(DataError, match="is not the one that was trained"):
            compare(wrong, said, torch.float32)
