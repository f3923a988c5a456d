"""Renders self-contained pages from the files in templates/."""

from collections.abc import Callable, Mapping
from typing import Any

import jinja2

ENVIRONMENT = jinja2.Environment(
  loader=jinja2.PackageLoader('thrifty_jax', 'templates'),
  autoescape=True,
  undefined=jinja2.StrictUndefined,
  trim_blocks=True,
  lstrip_blocks=True,
)


def render(template: str, content: Mapping[str, Any], **filters: Callable[..., Any]) -> str:
  """Renders a file in templates/ with values, and filters, for every name that it reads."""
  ENVIRONMENT.filters |= filters
  return ENVIRONMENT.get_template(template).render(content)
