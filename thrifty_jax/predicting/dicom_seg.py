"""Writes a mask as a DICOM Segmentation that belongs to its series.

It is the only output that identifies the patient: patient and study are copied from the series, as
archives and viewers need them. No value of a tag is ever printed.
"""

import importlib.util
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import thrifty_jax
from thrifty_jax import extras, labels
from thrifty_jax.errors import InputError
from thrifty_jax.predicting import dicom_series
from thrifty_jax.scans import unreadable

ENDING = '_seg.dcm'
# Whose values a DICOM SEG repeats.
_COPIED = (
  *dicom_series.IDS,
  *dicom_series.MAY_BE_EMPTY,
  *('PatientAge', 'PatientSize', 'PatientWeight', 'StudyDescription'),
)
# Values of DICOM's context group 7150, the categories of segments, with the context groups of their
# types; a class gets the code that has its name.
_TYPES = {'AnatomicalStructure': 7192, 'Tissue': 7191, 'MorphologicallyAbnormalStructure': 7194}
_SCHEME = '99THRIFTY_JAX'  # names of private schemes begin with 99


def require_packages() -> None:
  """Refuses to start if the packages that write DICOM are not installed."""
  if importlib.util.find_spec('highdicom') is None:  # which needs pydicom
    raise InputError(
      '--dicom_seg needs highdicom, which is not installed: ' + extras.how_to_install('dicom')
    )


def to_bytes(
  mask: np.ndarray, *, affine: np.ndarray, series: Path, about: Mapping[str, Any]
) -> bytes:
  """Content of a DICOM Segmentation with a binary segment for each foreground class.

  Args:
    mask: Label of each voxel, [D, H, W], uint8, with slices and axes as read from the series.
    affine: Map from (d, h, w) to RAS millimetres, [4, 4].
    series: Folder with the slices.
    about: Description of the masks: 'classes' by number, 'models' and 'flips', and 'regions', each
      of which is a segment with all of its labels.

  Raises:
    InputError: If the slices do not name their study, series and frame of reference, or a tag to be
      copied violates the standard.
  """
  import highdicom
  from pydicom.uid import ExplicitVRLittleEndian

  segments, regions = _segments(about), about.get('regions', ())
  step, down, across = np.linalg.norm(affine[:3, :3], axis=0).tolist()
  spacing = highdicom.PixelMeasuresSequence(  # as thick as apart, since a mask has no gaps
    pixel_spacing=(down, across), slice_thickness=step, spacing_between_slices=step
  )
  with unreadable.quiet():
    slices: list[Any] = []
    try:
      found = dicom_series.read_slices(
        series, affine, len(mask), _COPIED, kind='DICOM SEG', option='--dicom_seg'
      )
      # Of an enhanced object with all frames the mask is put in the order of its frames.
      slices = found.headers if found.has_frames else [found.headers[i] for i in found.order]
      ordered = mask[np.argsort(found.order)] if found.has_frames else mask
      made = highdicom.seg.Segmentation(
        source_images=slices,
        pixel_array=ordered if not regions else _segments_of(ordered, regions),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        pixel_measures=spacing,
        series_instance_uid=highdicom.UID(),
        series_number=dicom_series.SERIES + max(0, int(slices[0].get('SeriesNumber') or 0)),
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer='thrifty_jax',
        manufacturer_model_name='thrifty_jax.predict',
        software_versions=thrifty_jax.__version__,
        device_serial_number=about['models'][0]['weights_sha256'],
        series_description='Segmentation. ' + thrifty_jax.RESEARCH_USE,
        content_label='SEGMENTATION',
        content_description=thrifty_jax.RESEARCH_USE,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        specific_character_set='ISO_IR 192',  # UTF-8, as names of classes may be in any language
      )
      content = io.BytesIO()
      made.save_as(content)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
      invalid = ', '.join(dicom_series.find_invalid(slices[0], _COPIED) if slices else ())
      raise InputError(  # the error itself may quote a name
        f'{series}: {invalid or "a tag of the patient, study or series"} is not as '
        f'DICOM has it ({type(error).__name__} in highdicom), so a DICOM SEG cannot repeat it; '
        'correct the series, or leave out --dicom_seg'
      ) from error
  return content.getvalue()


def _segments_of(mask: np.ndarray, regions: labels.Regions) -> np.ndarray:
  """Returns which voxels lie in each region, [D, H, W, K - 1], uint8: segments may overlap."""
  of_class = [labels.belongs(mask, k, regions) for k in range(1, len(regions) + 1)]
  return np.stack(of_class, axis=-1).astype(np.uint8)


def _segments(about: Mapping[str, Any]) -> list[Any]:
  """Descriptions of the foreground classes in the order of their numbers."""
  import highdicom
  from pydicom.sr.codedict import codes

  algorithm = highdicom.AlgorithmIdentificationSequence(
    name='thrifty_jax',
    family=codes.cid7162.ArtificialIntelligence,
    version=thrifty_jax.__version__,
    parameters={
      'weights_sha256': ' '.join(one['weights_sha256'] for one in about['models']),
      'flips': str(about['flips']),
      'note': thrifty_jax.RESEARCH_USE.replace(',', ';'),  # commas separate the parameters
    },
  )
  found = []
  for number, name in list(about['classes'].items())[1:]:
    text = name.replace('\\', '/')[: dicom_series.LONGEST]  # a backslash would separate two values
    category, kind = _codes(number, text)
    found.append(
      highdicom.seg.SegmentDescription(
        segment_number=int(number),
        segment_label=text,
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
      )
    )
  return found


def _codes(number: str, name: str) -> tuple[Any, Any]:
  """Category and type of a class: SNOMED's if DICOM lists exactly its name, else our own."""
  from pydicom.sr.codedict import Code, codes

  wanted = ''.join(filter(str.isalnum, name)).lower().replace('grey', 'gray')
  for category, group in _TYPES.items():
    listed = getattr(codes, f'cid{group}')
    for known in listed.dir():
      if known.lower() == wanted:
        return getattr(codes.cid7150, category), getattr(listed, known)
  return codes.cid7150.SpatialAndRelationalConcept, Code(number, _SCHEME, name)
