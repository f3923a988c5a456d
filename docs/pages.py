"""The site's pages that lie beside docs/, and links to what is no page: a hook of mkdocs.yml."""

import functools
import os.path
import re
import tomllib
from pathlib import Path

from markdown.extensions.toc import slugify
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PROJECT = Path(__file__).resolve().parents[1]
# The file of the project that each of these pages shows.
PAGES = {
  'index.md': 'README.md',
  'how_it_works.md': 'WORKSPACE.md',
  'adding.md': 'WORKSPACE.md',
  'benchmarks.md': 'benchmarks/README.md',
  'contributing.md': 'CONTRIBUTING.md',
  'changelog.md': 'CHANGELOG.md',
}
ADDING = 'How to add'  # the section of WORKSPACE.md that is adding.md; how_it_works.md has the rest


def on_config(config: MkDocsConfig) -> None:
  """Adds a link to the project at the foot of every page."""
  icon = {'icon': 'fontawesome/brands/git-alt', 'link': address(), 'name': 'The project'}
  config.extra['social'] = [icon]


def on_files(files: Files, config: MkDocsConfig) -> None:
  """Adds the pages of PAGES."""
  for page, source in PAGES.items():
    files.append(File.generated(config, page, content=relink(content(page), source)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
  """Returns a page of docs/ with its links as they are on the site."""
  name = page.file.src_uri
  return markdown if name in PAGES else relink(markdown, f'docs/{name}')


@functools.cache
def address() -> str:
  """Returns the address of the project, which pyproject.toml has."""
  about = tomllib.loads((PROJECT / 'pyproject.toml').read_text(encoding='utf-8'))
  return about['project']['urls']['Repository']


@functools.cache
def content(page: str) -> str:
  """Returns the text of a page of PAGES, with links as they are in the project."""
  text = (PROJECT / PAGES[page]).read_text(encoding='utf-8')
  if PAGES[page] != 'WORKSPACE.md':
    return text
  sections = re.split(r'^(?=## )', text, flags=re.MULTILINE)
  (adding,) = [section for section in sections if section.startswith(f'## {ADDING}\n')]
  return adding if page == 'adding.md' else ''.join(each for each in sections if each != adding)


def relink(text: str, source: str) -> str:
  """Returns the text of a file of the project with links to the site's pages, else to the project.

  What links name is looked up from where the file lies; tests/test_documentation.py holds that it
  exists.
  """

  def linked(found: re.Match[str]) -> str:
    path, mark, anchor = found[2].partition('#')
    target = os.path.normpath(os.path.join(os.path.dirname(source), path)) if path else source
    return found[1] + (place(target, anchor) or f'{address()}/blob/main/{target}') + mark + anchor

  return re.sub(r'(\]\(|src=")(?!\w+:)([^)"\s]+)', linked, text)


def place(target: str, anchor: str) -> str:
  """Returns the place on the site of a file of the project, or '' if it is not part of the site."""
  if target.startswith('docs/'):
    return target.removeprefix('docs/')
  for page in (page for page, source in PAGES.items() if source == target):
    headings = re.findall(r'^#+ (.*)$', content(page), re.MULTILINE)
    if not anchor or anchor in {slugify(heading, '-') for heading in headings}:
      return page
  return ''
