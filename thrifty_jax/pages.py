"""Renders self-contained pages from the files in templates/."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jinja2


def render(template: str, content: Mapping[str, Any], **filters: Callable[..., Any]) -> str:
  """Renders a file in templates/ with values, and filters, for every name that it reads."""
  environment = _environment()
  environment.filters |= filters
  return environment.get_template(template).render(content)


@functools.cache
def _environment() -> jinja2.Environment:
  return jinja2.Environment(
    loader=jinja2.PackageLoader('thrifty_jax', 'templates'),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
