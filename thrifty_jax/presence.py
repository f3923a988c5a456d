"""Which classes the patients of a split have; not every patient has every one."""

from collections.abc import Collection, Mapping, Sequence


def count(
  split: Mapping[str, Sequence[str]],
  patients: Mapping[str, Collection[int]],
  classes: Sequence[str],
) -> dict[str, dict[str, int]]:
  """Counts the patients of each part of a split that have each foreground class, by their names.

  `classes` begin with the background. Returns {} where it is not known of any patient.
  """
  if not any(patients.values()):
    return {}
  return {
    part: {classes[k]: sum(k in patients[name] for name in names) for k in range(1, len(classes))}
    for part, names in split.items()
  }


def describe(having: Mapping[str, Mapping[str, int]], split: Mapping[str, Sequence[str]]) -> str:
  """Describes what `count` counted in one line; '' if nothing is known."""
  parts = {part: counts for part, counts in having.items() if split.get(part)}
  if all(count == len(split[part]) for part, counts in parts.items() for count in counts.values()):
    return 'every patient has every class' if parts else ''
  return '; '.join(
    f'{part}: {", ".join(f"{name} {count}" for name, count in counts.items())} of '
    f'{len(split[part])} patients'
    for part, counts in parts.items()
  )


def describe_absent(
  having: Mapping[str, Mapping[str, int]], split: Mapping[str, Sequence[str]]
) -> str:
  """Describes in one line the classes that no patient of some part has; '' if there are none."""
  parts = {part: counts for part, counts in having.items() if split.get(part)}
  classes = next(iter(parts.values()), {})
  absent = {name: [part for part in parts if not parts[part][name]] for name in classes}
  if not any(absent.values()):
    return ''
  names = ', '.join(
    f'{name} (no {" or ".join(where)} patient)' for name, where in absent.items() if where
  )
  return (
    f'too few patients have {names}: a class is learned from training patients only, and where no '
    'patient has it, it has no score. Add scans, or choose who validates and tests by '
    'data.validation_patients and data.test_patients.'
  )
