"""The process that all of a stage's are forked from: it imports once what each of them needs."""

from collections.abc import Iterable
from multiprocessing import forkserver, set_forkserver_preload

# By what a user calls a stage. Arrow imports pandas at its first array, gigatoken awkward at its first text.
MODULES = {
    "extract": ("data_prep.extract.stage",),
    "curate": ("data_prep.curate.stage", "data_prep.curate.signatures"),
    "tokenizer": ("data_prep.tokenizer.train", "awkward"),
    "pack": ("data_prep.shards.build", "awkward"),
    "instruct": ("data_prep.instruct.stage", "awkward"),
}
ALWAYS = ("data_prep.run.local", "pandas")


def start_server(stages: Iterable[str] = tuple(MODULES)) -> None:
    """Start it, unless it runs: it imports while its caller goes on, half a second on another core.

    What it did not import costs every process that time anew, and no more.
    """
    modules = [module for stage in stages for module in MODULES[stage]]
    set_forkserver_preload([*ALWAYS, *modules])
    forkserver.ensure_running()
