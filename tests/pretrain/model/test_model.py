"""Models are loaded and drawn under ZeRO-3 as they should be; their settings are checked and applied."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from data_prep.errors import ConfigError
from data_prep.shards.reader import ShardSet
from pretrain.config import Model
from pretrain.model.base_model import file_hashes, weights_hash
from pretrain.model.build import freeze
from pretrain.model.model_config import model_config
from tests import ranks, tiny

VOCABULARY = 257
# Deep and wide enough that the standard deviations of weights tell 1 / sqrt(2 layers) from 1.
GPT2 = tiny.GPT2 | {"n_layer": 4, "n_embd": 64, "vocab_size": VOCABULARY}
LLAMA = tiny.LLAMA | {"vocab_size": VOCABULARY}
FAMILIES = {"gpt2": GPT2, "llama": LLAMA, "llama-tied": LLAMA | {"tie_word_embeddings": True}}
PRECISIONS = {"gpt2": "fp32", "llama": "bf16", "llama-tied": "fp16"}  # of the loaded ones


def plain(settings: dict[str, Any], dtype: torch.dtype = torch.float32):
    """A model that transformers makes, without DeepSpeed."""
    chosen = dict(settings)
    config = AutoConfig.for_model(chosen.pop("model_type"), **chosen)
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(config, dtype=dtype)


def start(folder: Path, cases: dict[str, Any], world: int) -> list[ranks.Rank]:
    """The ranks of tests.pretrain.model.model_worker."""
    task = folder / "cases.json"
    task.write_text(json.dumps(cases))
    return ranks.start(["-m", "tests.pretrain.model.model_worker", str(task)], world)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, communication_op) -> Path:
    """CASE-WORLD.pt: what models of one and of two ranks hold; CASE/: those they were loaded from."""
    folder = tmp_path_factory.mktemp("built")
    cases = {}
    for name, settings in FAMILIES.items():
        cases[f"drawn-{name}"] = {"model": {"config": settings}, "precision": "fp32"}
        plain(settings).save_pretrained(folder / name, max_shard_size="20KB")
        model = {"path": str(folder / name)}
        cases[f"loaded-{name}"] = {"model": model, "precision": PRECISIONS[name]}
    ranks.end([*start(folder, cases, 1), *start(folder, cases, 2)])
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_of_a_loaded_model_is_the_files_in_training_precision(family, built):
    assert len(list((built / family).glob("*.safetensors"))) > 2
    expected = dict(plain(FAMILIES[family]).named_parameters(remove_duplicate=False))
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[
        PRECISIONS[family]
    ]
    for world in (1, 2):
        found = torch.load(built / f"loaded-{family}-{world}.pt")["weights"]
        assert found.keys() == expected.keys()
        for name, weight in found.items():
            assert weight.dtype == dtype
            assert torch.equal(weight, expected[name].to(dtype)), name


@pytest.mark.parametrize("origin", ["drawn", "loaded"])
@pytest.mark.parametrize(
    ("family", "tied"), [("gpt2", True), ("llama", False), ("llama-tied", True)]
)
def test_tied_embeddings_are_one_parameter_on_each_rank(family, tied, origin, built):
    for world in (1, 2):
        result = torch.load(built / f"{origin}-{family}-{world}.pt")
        assert result["tied"] == tied
        count = sum(p.numel() for p in plain(FAMILIES[family]).parameters())
        # A rank's share, filled up where the ranks do not divide a parameter.
        assert all(count / world <= held < count / world + 100 for held in result["held"])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_from_scratch_is_the_same_on_any_number_of_ranks_and_guesses_at_first(
    family, built
):
    one, two = (torch.load(built / f"drawn-{family}-{world}.pt") for world in (1, 2))
    assert one["weights"].keys() == two["weights"].keys()
    for name, weight in one["weights"].items():
        assert torch.equal(weight, two["weights"][name]), name
    # Without transformers' initialisation, it would be ten times that of guessing.
    assert one["first loss"] == pytest.approx(1, abs=0.05)
    assert two["first loss"] == pytest.approx(one["first loss"], rel=1e-5)


def test_gpt2_is_drawn_as_its_paper_says(built):
    """Radford et al. 2019, section 2.3: residual layers' weights are scaled by 1 / sqrt(N), N = 2 layers."""
    weights = torch.load(built / "drawn-gpt2-2.pt")["weights"]
    residual = [name for name in weights if name.endswith("c_proj.weight")]
    others = [name for name in weights if name.endswith(("c_attn.weight", "c_fc.weight"))]
    assert len(residual) == len(others) == 8
    for name in residual:
        assert weights[name].std().item() == pytest.approx(0.02 / 8**0.5, rel=0.05)
    for name in [*others, "transformer.wte.weight", "transformer.wpe.weight"]:
        assert weights[name].std().item() == pytest.approx(0.02, rel=0.05)
    for name, weight in weights.items():
        if name.endswith("bias"):
            assert not weight.any(), name
        elif ".ln_" in name:
            assert (weight == 1).all(), name


@pytest.mark.long
@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_rank_holds_more_than_its_share_and_some_tensors_of_a_loaded_model(
    stored, precision, tmp_path, communication_op
):
    settings = LLAMA | {
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_attention_heads": 16,
        "num_hidden_layers": 12,
    }
    model = plain(settings, getattr(torch, stored))
    model.save_pretrained(tmp_path / "model", max_shard_size="50MB")
    largest = max(p.numel() for p in model.parameters())
    case = {"model": {"path": str(tmp_path / "model")}, "precision": precision, "memory": True}
    ranks.end(start(tmp_path, {"case": case}, 2))
    bytes_each = 4 if precision == "fp32" else 2
    for share, used in torch.load(tmp_path / "case-2.pt")["memory"]:
        # Where a module's tensors are whole at a time, and DeepSpeed's own buffers.
        assert used < share + 3 * largest * bytes_each + 16e6


# ---- settings --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory):
    return ShardSet(tiny.shard_set(tmp_path_factory.mktemp("shards") / "a")).manifest


def refused(manifest, **settings) -> str:
    with pytest.raises(ConfigError) as raised:
        model_config(Model(**settings), manifest)
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("family", "settings", "complaint"),
    [
        ("gpt2", {"n_embd": 30, "n_head": 4}, "n_embd: found 30, which n_head (4) does not divide"),
        ("gpt2", {"n_layer": 0}, "n_layer: found 0, expected a number above 0"),
        ("gpt2", {"n_head": 0}, "n_head: found 0"),
        ("gpt2", {"n_embd": -32}, "n_embd: found -32"),
        ("gpt2", {"n_embd": "32"}, "n_embd: found '32'"),
        ("gpt2", {"activation_function": "glue"}, "gpt2 refuses it: it does not know 'glue'"),
        (
            "llama",
            {"num_attention_heads": 4, "num_key_value_heads": 3},
            "num_attention_heads: found 4, which num_key_value_heads (3) does not divide",
        ),
        ("llama", {"num_key_value_heads": 0}, "num_key_value_heads: found 0"),
        ("llama", {"hidden_size": 30, "num_attention_heads": 4}, "llama refuses it: "),
        ("llama", {"num_hidden_layer": 4}, "did you mean num_hidden_layers?"),
    ],
)
def test_a_shape_that_cannot_be_is_one_line_with_the_keys_own_names(
    family, settings, complaint, manifest
):
    base = tiny.GPT2 if family == "gpt2" else tiny.LLAMA
    message = refused(manifest, config=base | settings)
    assert message.startswith("model.config")
    assert complaint in message


def test_dropout_is_set_wherever_the_architecture_has_it(manifest):
    config = model_config(Model(config=tiny.GPT2, dropout=0.25), manifest)
    assert (config.resid_pdrop, config.embd_pdrop, config.attn_pdrop) == (0.25, 0.25, 0.25)
    assert config.summary_first_dropout == AutoConfig.for_model("gpt2").summary_first_dropout
    assert model_config(Model(config=tiny.LLAMA, dropout=0.25), manifest).attention_dropout == 0.25
    default = AutoConfig.for_model("gpt2").resid_pdrop
    free = {key: value for key, value in tiny.GPT2.items() if not key.endswith("_pdrop")}
    assert model_config(Model(config=free), manifest).resid_pdrop == default


def test_dropout_of_an_architecture_without_it_is_refused(manifest):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "state_size": 4}
    message = refused(manifest, config={"model_type": "mamba"} | sizes, dropout=0.1)
    assert message == "model.dropout: found 0.1, but mamba has no dropout; leave it out"


def test_a_branch_has_the_config_of_its_run(manifest, tmp_path):
    plain(LLAMA).config.save_pretrained(tmp_path / "other" / "model")
    config = model_config(
        Model(branch={"run": tmp_path / "other"}), manifest, of_branch=tmp_path / "other/model"
    )
    assert config.num_key_value_heads == LLAMA["num_key_value_heads"]
    with pytest.raises(ConfigError, match=r"^model\.branch\.run: cannot load a model"):
        model_config(
            Model(branch={"run": tmp_path / "none"}), manifest, of_branch=tmp_path / "none/model"
        )


def trained(model: torch.nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_frozen_modules_are_left_as_they_are_with_what_they_share():
    model = plain(GPT2)
    freeze(model, ["transformer.wte", "transformer.h.[01]", "transformer.h.*.mlp"])
    left = {
        name
        for name, _ in model.named_parameters()
        if name.startswith(("transformer.h.2", "transformer.h.3")) and ".mlp." not in name
    }
    assert trained(model) == left | {
        "transformer.wpe.weight",
        "transformer.ln_f.weight",
        "transformer.ln_f.bias",
    }
    assert not model.lm_head.weight.requires_grad  # one with transformer.wte's


def test_a_name_that_no_module_has_is_refused_with_the_nearest_one():
    with pytest.raises(
        ConfigError, match=r"no module transformer.wtf; did you mean transformer.wt"
    ):
        freeze(plain(GPT2), ["transformer.wtf"])
    with pytest.raises(ConfigError, match="is the whole model; leave something to train"):
        freeze(plain(LLAMA), ["model", "lm_head"])


def test_a_models_hash_is_of_its_weights_wherever_they_lie_and_however_many_hash_it(tmp_path):
    plain(LLAMA).save_pretrained(tmp_path / "a", max_shard_size="20KB")
    (tmp_path / "a").rename(tmp_path / "b")
    whole = file_hashes(tmp_path / "b")
    expected = weights_hash([whole])
    for parts in (2, 3, 50):
        shares = [file_hashes(tmp_path / "b", part, parts) for part in range(parts)]
        assert max(map(len, shares)) <= -(-len(whole) // parts)
        assert weights_hash(shares) == expected
    weights = next((tmp_path / "b").glob("*.safetensors"))
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert weights_hash([file_hashes(tmp_path / "b")]) != expected


def test_what_the_hub_has_hashed_is_not_read_again(tmp_path):
    blobs, folder = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    plain(LLAMA).save_pretrained(tmp_path / "model")
    expected = file_hashes(tmp_path / "model")
    blobs.mkdir()
    folder.mkdir(parents=True)
    for name, hashed in expected.items():
        stored = blobs / (hashed if name.endswith("safetensors") else "0" * 40)
        (tmp_path / "model" / name).rename(stored)
        (folder / name).symlink_to(stored)
    (blobs / expected["model.safetensors"]).write_bytes(b"")
    assert file_hashes(folder) == expected
