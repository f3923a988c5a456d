"""A DICOM series in any lay, and those to which no other object can belong."""

import warnings

import numpy as np
import pydicom
from scipy.spatial.transform import Rotation

CLASSES = ('background', 'liver', 'grey matter', 'опухоль, Wucherung')
ABOUT = {
  'classes': {str(number): name for number, name in enumerate(CLASSES)},
  'models': [{'weights_sha256': 'ab' * 32}],
  'flips': False,
}
# Directions of rows and columns, degrees about the first axis, and steps of the slices: -1 is a
# series whose first file is the last along the normal.
LAYS = {
  'axial': ((1, 0, 0), (0, 1, 0), 0, 1),
  'axial, from head to feet': ((1, 0, 0), (0, 1, 0), 0, -1),
  'oblique': ((1, 0, 0), (0, 1, 0), 25, 1),
  'oblique, reversed': ((1, 0, 0), (0, 1, 0), -17, -1),
  'coronal, oblique': ((1, 0, 0), (0, 0, -1), -11, 1),
  'sagittal, reversed': ((0, 1, 0), (0, 0, -1), 0, -1),
  'feet first, face down': ((-1, 0, 0), (0, -1, 0), 0, 1),
}
NAMES = {
  'PatientName': 'Müller^Jürgen',
  'PatientID': 'ID-4711',
  'PatientBirthDate': '19610203',
  'PatientSex': 'M',
  'AccessionNumber': 'ACC-0815',
  'StudyID': 'ST-99',
  'StudyDate': '20190817',
  'StudyTime': '091011',
  'ReferringPhysicianName': 'Referring^Physician',
}
# These belong to the images alone.
OTHERS = {
  'InstitutionName': 'Hospital of Anytown',
  'SeriesDescription': 'Series of Jane',
  'ImageComments': 'Comment on Jane',
  'OperatorsName': 'Operating^Olga',
}
SECRETS = (
  'ller',
  'rgen',
  '4711',
  '19610203',
  '0815',
  'Physician',
  'Anytown',
  'Jane',
  'Olga',
  '.77.',
)


def write_series(folder, *, lay='axial', voxels=None, files=None, **changes):
  """A series in the order of the files; returns the headers by slice along the files' order."""
  folder.mkdir(parents=True)
  voxels = np.random.default_rng(0).integers(0, 900, (5, 9, 7)) if voxels is None else voxels
  *axes, degrees, step = LAYS[lay]
  turn = Rotation.from_euler('x', degrees, degrees=True).as_matrix()
  row, column = (turn @ axis for axis in axes)
  uids = {
    'StudyInstanceUID': '1.2.826.0.1.77.1',
    'SeriesInstanceUID': '1.2.826.0.1.77.2',
    'FrameOfReferenceUID': '1.2.826.0.1.77.3',
  }
  for d in range(len(voxels)):
    one = pydicom.Dataset()
    one.file_meta = pydicom.dataset.FileMetaDataset()
    one.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = pydicom.uid.MRImageStorage
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = pydicom.uid.UID(
      f'1.2.826.0.1.77.4.{d + 1}'
    )
    one.SpecificCharacterSet = 'ISO_IR 100'
    one.Modality, one.SeriesNumber, one.InstanceNumber = 'MR', 7, d + 1
    one.ImagePositionPatient = [
      f'{x:.9g}' for x in (-20.5, 11.25, 300) + step * 2.25 * d * np.cross(row, column)
    ]
    one.ImageOrientationPatient = [f'{x:.12f}' for x in (*row, *column)]
    one.PixelSpacing, one.SliceThickness = [0.75, 1.5], 9.0  # which is not the step
    one.Rows, one.Columns = voxels.shape[1:]
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, 'MONOCHROME2'
    one.BitsAllocated = one.BitsStored = 16
    one.HighBit, one.PixelRepresentation = 15, 0
    one.PixelData = voxels[d].astype('<u2').tobytes()
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # pydicom's, of tags that are meant to be wrong
      for name, value in ({**uids, **NAMES, **OTHERS} | changes).items():
        if value is None:
          one.pop(name, None)
        else:
          setattr(one, name, value(d) if callable(value) else value)
      one.save_as(folder / f'{(d * 3) % len(voxels)}.dcm', enforce_file_format=True)
  return folder


def to_enhanced(series, place):
  """The series as one object of all frames, which highdicom writes; not in the order of places."""
  import highdicom

  headers = [pydicom.dcmread(path) for path in sorted(series.iterdir())]
  made = highdicom.legacy.LegacyConvertedEnhancedMRImage(
    headers,
    series_instance_uid='1.2.826.0.1.77.8',
    series_number=7,
    sop_instance_uid='1.2.826.0.1.77.9',
    instance_number=1,
  )
  place.mkdir()
  made.save_as(place / 'all.dcm')
  return place


BAD = {
  'no frame of reference': ({'FrameOfReferenceUID': None}, 'has no FrameOfReferenceUID'),
  'no instance': ({'SOPInstanceUID': ''}, 'has no SOPInstanceUID'),
  'two series': ({'SeriesInstanceUID': lambda d: f'1.2.{d // 3}'}, 'has another SeriesInstanceUID'),
  'an instance twice': ({'SOPInstanceUID': '1.2.3'}, 'two slices have one SOPInstanceUID'),
  'no sex of DICOM': ({'PatientSex': 'JANE'}, 'is not as DICOM has it (ValueError in highdicom)'),
}
