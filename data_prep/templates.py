"""Jinja templates beside their modules: a name that is not given is an error, not an empty place."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2


def render(
    template: Path,
    values: Mapping[str, Any],
    autoescape: bool = False,
    **filters: Callable[..., Any],
) -> str:
    """The text of a template; `number` (1,234,567) is a filter of every one. `autoescape` for HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": "{:,}".format} | filters
    return environment.get_template(template.name).render(values)
