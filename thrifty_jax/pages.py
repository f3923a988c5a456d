"""Renders self-contained pages from the files in templates/."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jinja2


def render(template: str, content: Mapping[str, Any], **filters: Callable[..., Any]) -> str:
  """Renders the text of a page.

  Args:
    template: Name of a file in templates/.
    content: Values by name, including every name that the template reads.
    **filters: Functions by their names in the template.
  """
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
