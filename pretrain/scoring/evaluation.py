"""How well a model predicts held-out text, and how it does on benchmarks: lm-eval does the scoring.

Perplexity is over whole documents: a document longer than the context is scored in windows that follow each
other, each beginning with the last token of the one before (lm-eval's rolling log-likelihood), the first
with the begin token. Bits per byte compare models of different tokenizers; perplexity per token does not.
"""

import contextlib
import hashlib
import heapq
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import lm_eval
import torch
import transformers
from lm_eval.api.task import ConfigurableTask
from lm_eval.config.evaluate_config import EvaluatorConfig
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from data_prep.documents import Document, read_documents
from data_prep.errors import ConfigError, DataError
from data_prep.files import digest, sha256_file

PERPLEXITY_METRICS = ("bits_per_byte", "byte_perplexity", "word_perplexity")
# What lm-eval's regular-expression filter puts where it finds no answer.
_NO_ANSWER = "[invalid]"


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be scored; `hash` is that of its files' content."""

    name: str
    hash: str
    model: Any
    tokenizer: Any  # reads special tokens from text, as prompts of benchmarks may want
    verbatim_tokenizer: Any  # does not, as documents demand


def load_model(name: str, folder: Path, device: str, dtype: str) -> LoadedModel:
    """Load a Hugging Face folder; `device` is auto (a GPU if there is one), cpu, cuda or cuda:N."""
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    tokenizer, verbatim_tokenizer = (
        transformers.AutoTokenizer.from_pretrained(folder, split_special_tokens=verbatim)
        for verbatim in (False, True)
    )
    return LoadedModel(
        name, model_hash(folder), model.to(device).eval(), tokenizer, verbatim_tokenizer
    )


def check_context(name: str, folder: Path, context_tokens: int) -> None:
    """Raise ConfigError where the context is longer than the one that the model was made for."""
    config = transformers.AutoConfig.from_pretrained(folder)
    own = getattr(config, "max_position_embeddings", None)
    if own is not None and context_tokens > own:
        raise ConfigError(
            f"context_tokens: the model {name} has a context of {own} tokens, found {context_tokens}; "
            "give no more than that"
        )


def model_hash(folder: Path) -> str:
    """Hash of names and content of the files that make a model: weights, configs, tokenizer."""
    suffixes = (".safetensors", ".bin", ".json", ".model", ".txt", ".jinja")
    files = sorted(path for path in folder.iterdir() if path.suffix in suffixes)
    return digest({path.name: sha256_file(path) for path in files})


def held_out(paths: Sequence[Path], limit: int | None) -> list[Document]:
    """The documents to score, sorted by id: all, or the `limit` whose ids have the smallest hashes.

    Taking the first ones of a file instead would take the oldest articles. Raises DataError where there
    are none, or a line is no document.
    """

    def drawn(document: Document) -> str:
        return hashlib.sha256(document["id"].encode()).hexdigest()

    documents = (document for path in paths for document in _documents(path) if document["text"])
    chosen = list(documents) if limit is None else heapq.nsmallest(limit, documents, key=drawn)
    if not chosen:
        raise DataError(f"{paths[0]}: no documents to evaluate on; give files that hold some")
    return sorted(chosen, key=lambda document: document["id"])


def _documents(path: Path) -> Iterator[Document]:
    for number, record in enumerate(read_documents(path), start=1):
        fields = record if isinstance(record, dict) else {}
        if not all(isinstance(fields.get(key), str) for key in ("id", "text")):
            raise DataError(
                f"{path}: record {number} has no id and text, both strings; give a file of documents "
                "as docs/formats.md has them"
            )
        yield record


class QuietScorer(HFLM):
    """lm-eval's model without its progress bars, of which every window of a document has one."""

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
        return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> Any:
        return super().loglikelihood_rolling(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = True, override_bs: int | None = None
    ) -> Any:
        return super()._loglikelihood_tokens(requests, True, override_bs)

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
        return super().generate_until(requests, disable_tqdm=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    # lm-eval warns of what is meant here: an initialised model, a task that is a Python object.
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@quiet()
def score_documents(
    loaded: LoadedModel,
    source: str,
    documents: Sequence[Document],
    batch_size: int,
    context_tokens: int | None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Perplexities of a model on a source's documents, and a line for each document.

    `context_tokens` shortens the model's own context, so that models of different contexts compare.
    """
    records = [{"id": document["id"], "text": document["text"]} for document in documents]
    task = ConfigurableTask(
        config={
            "task": source,
            "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(records)},
            "test_split": "test",
            "output_type": "loglikelihood_rolling",
            "doc_to_text": lambda _: "",
            "doc_to_target": lambda record: record["text"],
            "metric_list": [
                {
                    "metric": metric,
                    "aggregation": "bits_per_byte"
                    if metric == "bits_per_byte"
                    else "weighted_perplexity",
                    "higher_is_better": False,
                }
                for metric in PERPLEXITY_METRICS
            ],
        }
    )
    # The rolling windows begin with the begin token already; the tokenizer must not add a second one.
    scorer = QuietScorer(
        pretrained=loaded.model,
        tokenizer=loaded.verbatim_tokenizer,
        batch_size=batch_size,
        max_length=context_tokens,
        add_bos_token=False,
    )
    evaluated = _evaluate(scorer, [task], bootstrap_iters=0)
    metrics = evaluated["results"][source]
    score = {
        "model": loaded.name,
        "source": source,
        "documents": len(records),
        "bytes": sum(len(record["text"].encode()) for record in records),
        "context_tokens": scorer.max_length,
        **{metric: metrics[f"{metric},none"] for metric in PERPLEXITY_METRICS},
    }
    samples = [
        {
            "model": loaded.name,
            "source": source,
            "id": sample["doc"]["id"],
            "bytes": sample["bits_per_byte"][1],
            "log_likelihood": sample["bits_per_byte"][0],
        }
        for sample in evaluated["samples"][source]
    ]
    return score, samples


def resolve_tasks(names: Sequence[str]) -> tuple[list[Any], TaskManager]:
    """What lm-eval makes of tasks' names, or YAML files; ConfigError for a name that it does not know."""
    chosen = EvaluatorConfig(model="hf", tasks=list(names))
    try:
        manager = chosen.process_tasks()
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"tasks: {reason}; lm-eval ls tasks lists those it has, a path to a YAML file adds one"
        ) from error
    return list(chosen.tasks), manager


def task_scores(evaluated: dict[str, Any]) -> list[tuple[str, str, float, Any]]:
    """(task, metric, value, standard error) of lm-eval's results."""
    return [
        (task, metric.replace(",none", ""), value, metrics.get(metric.replace(",", "_stderr,", 1)))
        for task, metrics in evaluated["results"].items()
        for metric, value in metrics.items()
        if isinstance(value, int | float) and "," in metric and "_stderr," not in metric
    ]


@quiet()
def score_tasks(
    loaded: LoadedModel,
    tasks: Sequence[str],
    batch_size: int,
    limit: int | None,
    few_shot: int | None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Benchmark scores of a model, and every prompt with its raw answer.

    `tasks` are names that lm-eval knows, or YAML files. Raises ConfigError for a name that it does not know.
    """
    chosen, manager = resolve_tasks(tasks)
    evaluated = _evaluate(
        QuietScorer(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=batch_size),
        chosen,
        task_manager=manager,
        limit=limit,
        num_fewshot=few_shot,
    )
    scores = [
        {
            "model": loaded.name,
            "task": task,
            "version": evaluated["versions"].get(task),
            "few_shot": evaluated["n-shot"].get(task),
            "questions": evaluated["n-samples"].get(task, {}).get("effective"),
            "metric": metric,
            "value": value,
            "standard_error": error,
            "unparsable": _unparsable_share(evaluated["samples"].get(task, [])),
        }
        for task, metric, value, error in task_scores(evaluated)
    ]
    answers = [
        {
            "model": loaded.name,
            "task": task,
            "question": sample["doc_id"],
            "prompts": sample["arguments"],
            "answers": sample["resps"],
            "expected": sample["target"],
        }
        for task, samples in evaluated["samples"].items()
        for sample in samples
    ]
    return scores, answers


def _unparsable_share(samples: Sequence[dict[str, Any]]) -> float | None:
    """Share of generated answers in which the task's filter found none; None where nothing is parsed."""
    parsed = [
        sample["filtered_resps"][0] == _NO_ANSWER
        for sample in samples
        if sample["filter"] != "none" and sample["filtered_resps"]
    ]
    return sum(parsed) / len(parsed) if parsed else None


@quiet()
def quiet_evaluate(scorer: HFLM, tasks: Sequence[Any], **options: Any) -> dict[str, Any] | None:
    """lm-eval's results; None on all but the first process of a node."""
    return lm_eval.simple_evaluate(model=scorer, tasks=list(tasks), **options)  # type: ignore[return-value]


def _evaluate(scorer: HFLM, tasks: Sequence[Any], **options: Any) -> dict[str, Any]:
    evaluated = quiet_evaluate(scorer, tasks, **options)
    assert evaluated is not None  # this is one process
    return evaluated
