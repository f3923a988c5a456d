"""The describe stage: prints the layers of the configured network without reading data."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from thrifty_jax import config as configs
from thrifty_jax import device, stages
from thrifty_jax.logbook import say
from thrifty_jax.networks import build, genotype
from thrifty_jax.networks.layers import Layer, activation_bytes, layers
from thrifty_jax.networks.model_spec import make_untrained_spec
from thrifty_jax.scores import tables

# Measures the network of a config and its genotype: figures for JSON, and lines for a person.
Measure = Callable[[ConfigDict, Any], tuple[list[dict[str, Any]], list[str]]]


def describe(config: ConfigDict, workdir: Path, *, measure: Measure) -> dict[str, Any]:
  """Prints layers, size and time of the configured network; the last line is JSON, as returned.

  A searched genotype is read from the run's folder; InputError is raised if there is none.
  """
  data, name = config.data, config.model.name
  path = stages.find_genotype(config, workdir) if configs.has_genotype(config) else None
  own = genotype.load_any(path) if path else None
  spec = make_untrained_spec(config)
  net = build.build(spec, own)
  image = (data.image_size, data.image_size, spec.image_channels)
  found = layers(net, image)
  total = [layer for layer in found if len(layer.path) == 1]
  parameters, macs = sum(layer.parameters for layer in total), sum(layer.macs for layer in total)
  planned = activation_bytes(net, image)
  costs, lines = measure(config, own)
  summary = {
    'model': name,
    'genotype': str(path) if path else None,
    'image': list(image),
    'classes': len(data.classes),
    'parameters': parameters,
    'macs': macs,
    'activation_bytes': planned,
    'device': device.describe(),
    'costs': costs,
  }
  print('\n'.join(['', *format_table(found), '']))
  say('network', f'{parameters:,} parameters, {parameters * 4 / 2**20:.2f} MiB as float32')
  shape = ' x '.join(map(str, image))
  say('MACs', f'{tables.format_macs(macs)} to predict a slice of {shape}')
  if config.model.deep_supervision:
    say('', 'without what deep supervision computes in training alone')
  memory = 'not known on this device' if planned is None else f'{planned / 2**20:.2f} MiB'
  say('memory', f'{memory}: peak temporary memory of the compiled forward pass of one slice')
  say('', f'on {summary["device"]}, beyond weights, input and logits')
  for number, line in enumerate(lines):
    say('' if number else 'time', line)
  print()
  print(json.dumps(summary), flush=True)
  return summary


def format_table(found: Sequence[Layer]) -> list[str]:
  """Formats a line per layer, with parts indented below their cell, and the total."""
  whole = [layer for layer in found if len(layer.path) == 1]
  total, parameters = sum(layer.macs for layer in whole), sum(layer.parameters for layer in whole)
  unit, letter = tables.find_unit(total / 100)  # leaves digits for small layers
  rows = [('layer', 'kind', 'output', 'parameters', f'MACs ({letter})', 'share')]
  for layer in found:
    name = '  ' * (len(layer.path) - 1) + layer.path[-1]
    output = ' x '.join(map(str, layer.output))
    # Only whole cells have shares, which add up.
    share = f'{100 * layer.macs / total:.1f} %' if len(layer.path) == 1 else ''
    figures = f'{layer.parameters:,}', f'{layer.macs / unit:,.2f}'
    rows.append((name, layer.kind, output, *figures, share))
  rows.append(('total', '', '', f'{parameters:,}', f'{total / unit:,.2f}', ''))
  lines = tables.align(rows, left=2)
  rule = '-' * max(map(len, lines))
  return [lines[0], rule, *lines[1:-1], rule, lines[-1]]
