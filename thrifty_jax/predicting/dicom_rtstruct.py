"""Writes a mask as a DICOM RT Structure Set (RTSTRUCT): the contours of its classes.

As a DICOM SEG it names the patient and the study of its series. Pixels whose centres lie within the
contours are those of the mask; `scans/contours.py` draws them.

Source: DICOM PS3.3, A.19 (structure set), C.8.8.5, C.8.8.6 and C.8.8.8 (its modules).
"""

import datetime
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageColor

import thrifty_jax
from thrifty_jax import labels
from thrifty_jax.errors import InputError
from thrifty_jax.predicting import dicom_series
from thrifty_jax.predicting.dicom_series import Slices
from thrifty_jax.scans import contours, overlays, unreadable

ENDING = '_rtstruct.dcm'
_COPIED = ('StudyInstanceUID', *dicom_series.MAY_BE_EMPTY)
_CHECKED = ('PatientBirthDate', 'PatientSex', 'StudyDate', 'StudyTime')  # which no program can read
_STORAGE = '1.2.840.10008.5.1.4.1.1.481.3'  # RT Structure Set Storage
_STUDY = '1.2.840.10008.3.1.2.3.1'  # by which a structure set refers to a study


def to_bytes(
  mask: np.ndarray, *, affine: np.ndarray, series: Path, about: Mapping[str, Any]
) -> bytes:
  """Content of an RTSTRUCT with a structure for each foreground class.

  Args:
    mask: Label of each voxel, [D, H, W], uint8, with slices and axes as read from the series.
    affine: Map from (d, h, w) to RAS millimetres, [4, 4].
    series: Folder with the slices.
    about: Description of the masks: 'classes' by number, and 'regions', each of which is a
      structure with all of its labels.

  Raises:
    InputError: If the slices do not name their study, series and frame of reference, or a tag to be
      copied violates the standard.
  """
  content = io.BytesIO()
  with unreadable.quiet():
    try:
      found = dicom_series.read_slices(
        series, affine, len(mask), _COPIED, kind='RTSTRUCT', option='--rtstruct'
      )
      invalid = dicom_series.find_invalid(found.headers[0], _CHECKED)
      if not invalid:
        made = _describe(found)
        for number, name in list(about['classes'].items())[1:]:
          inside = labels.belongs(mask, int(number), about.get('regions', ()))
          _add_structure(made, found, int(number), name, inside, affine)
        made.save_as(content, enforce_file_format=True)
        return content.getvalue()
      reason = ', '.join(invalid)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
      reason = f'a tag of the patient, study or series ({type(error).__name__} in pydicom)'
  raise InputError(  # without the error itself, which may quote a name
    f'{series}: {reason} is not as DICOM has it, so an RTSTRUCT cannot repeat it; correct the '
    'series, or leave out --rtstruct'
  )


def _add_structure(
  made: Any, found: Slices, number: int, name: str, inside: np.ndarray, affine: np.ndarray
) -> None:
  """Adds a class, whose voxels are `inside`, [D, H, W] bool."""
  colours = overlays.line_colours(())
  steps = np.diag((-1.0, -1.0, 1.0)) @ affine[:3, 1:3]  # of a row and of a column, LPS mm
  drawn = [
    _item_of(found, d, found.positions[d] + points @ steps.T)
    for d in map(int, np.flatnonzero(inside.any(axis=(1, 2))))
    for points in contours.trace(inside[d])
  ]
  made.StructureSetROISequence.append(
    _item(
      ROINumber=number,
      ReferencedFrameOfReferenceUID=found.headers[0].FrameOfReferenceUID,
      ROIName=name.replace('\\', '/')[: dicom_series.LONGEST],  # a backslash separates values
      ROIGenerationAlgorithm='AUTOMATIC',
    )
  )
  made.ROIContourSequence.append(
    _item(
      ROIDisplayColor=list(ImageColor.getrgb(colours[(number - 1) % len(colours)])),
      ReferencedROINumber=number,
      **({'ContourSequence': drawn} if drawn else {}),
    )
  )
  made.RTROIObservationsSequence.append(
    _item(
      ObservationNumber=number,
      ReferencedROINumber=number,
      RTROIInterpretedType='',
      ROIInterpreter='',
    )
  )


def _describe(found: Slices) -> Any:
  """Returns the object without structures: whose it is, and the images that it refers to."""
  import pydicom
  from pydicom.uid import UID, ImplicitVRLittleEndian, generate_uid

  first, now = found.headers[0], datetime.datetime.now()
  made = pydicom.Dataset()
  made.file_meta = pydicom.dataset.FileMetaDataset()
  # Implicit: with explicit types no text may be longer than 65,534 bytes, as contours are.
  made.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
  made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = UID(_STORAGE)
  made.SOPInstanceUID = generate_uid(prefix=None)
  made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
  if 'SpecificCharacterSet' in first:
    first.decode()
  made.SpecificCharacterSet = 'ISO_IR 192'  # UTF-8, as names of classes may be in any language
  for name in _COPIED:
    made[name] = first[name]
  made.Modality, made.Manufacturer = 'RTSTRUCT', 'thrifty_jax'
  made.ManufacturerModelName = 'thrifty_jax.predict'
  made.SoftwareVersions = thrifty_jax.__version__
  made.SeriesInstanceUID = generate_uid(prefix=None)
  made.SeriesNumber = dicom_series.SERIES + max(0, int(first.get('SeriesNumber') or 0))
  made.SeriesDescription = 'Structures. ' + thrifty_jax.RESEARCH_USE
  made.InstanceNumber = 1
  made.StructureSetLabel = 'STRUCTURES'
  made.StructureSetDescription = thrifty_jax.RESEARCH_USE
  made.StructureSetDate, made.StructureSetTime = now.strftime('%Y%m%d'), now.strftime('%H%M%S')
  made.ApprovalStatus = 'UNAPPROVED'
  images = [
    _item(ReferencedSOPClassUID=one.SOPClassUID, ReferencedSOPInstanceUID=one.SOPInstanceUID)
    for one in found.headers
  ]
  of_series = _item(SeriesInstanceUID=first.SeriesInstanceUID, ContourImageSequence=images)
  study = _item(
    ReferencedSOPClassUID=_STUDY,
    ReferencedSOPInstanceUID=first.StudyInstanceUID,
    RTReferencedSeriesSequence=[of_series],
  )
  made.ReferencedFrameOfReferenceSequence = [
    _item(FrameOfReferenceUID=first.FrameOfReferenceUID, RTReferencedStudySequence=[study])
  ]
  for name in ('StructureSetROISequence', 'ROIContourSequence', 'RTROIObservationsSequence'):
    setattr(made, name, [])
  return made


def _item_of(found: Slices, d: int, points: np.ndarray) -> Any:
  """Returns a contour on slice d, whose points are in LPS millimetres, [N, 3]."""
  number = int(found.order[d])
  image = found.headers[0 if found.has_frames else number]
  frame = {'ReferencedFrameNumber': number + 1} if found.has_frames else {}
  reference = _item(
    ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID, **frame
  )
  return _item(
    ContourImageSequence=[reference],
    ContourGeometricType='CLOSED_PLANAR',
    NumberOfContourPoints=len(points),
    ContourData=[f'{value:.10g}' for value in points.ravel()],  # of at most 16 letters
  )


def _item(**tags: Any) -> Any:
  import pydicom

  made = pydicom.Dataset()
  for keyword, value in tags.items():
    setattr(made, keyword, value)
  return made
