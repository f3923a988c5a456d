"""Studies in DICOM with their truth, as other programs write them: pydicom and highdicom."""

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset

from data_prep import phantom_folders

CT = '1.2.840.10008.5.1.4.1.1.2'
RTSTRUCT = '1.2.840.10008.5.1.4.1.1.481.3'
ROOT = '1.2.826.0.1.77'
SECRET = 'Doe^Jane'  # what no output may have; each patient's id has it too


def begin(sop_class, instance):
  """An object of a class with the tags that all have."""
  made = pydicom.Dataset()
  made.file_meta = FileMetaDataset()
  made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
  made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = pydicom.uid.UID(sop_class)
  made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = pydicom.uid.UID(instance)
  made.SpecificCharacterSet = 'ISO_IR 192'
  return made


def item(**tags):
  made = pydicom.Dataset()
  for keyword, value in tags.items():
    setattr(made, keyword, value)
  return made


def write_series(folder, voxels, affine, *, number, patient, modality='CT', **changes):
  """Writes a series, [D, H, W] whole numbers, its files in no order; returns their headers.

  The affine is that of (d, h, w) to RAS millimetres; `number` tells its identifiers from others'.
  """
  folder.mkdir(parents=True, exist_ok=True)
  lps = np.diag((-1.0, -1.0, 1.0, 1.0)) @ affine
  down, across = np.linalg.norm(lps[:3, 1:3], axis=0)
  headers = []
  for d in range(len(voxels)):
    one = begin(CT, f'{ROOT}.{number}.4.{d + 1}')
    one.Modality, one.ImageType = modality, ['ORIGINAL', 'PRIMARY', 'AXIAL']
    one.PatientName, one.PatientID = SECRET, f'{SECRET}-{patient}'
    one.PatientBirthDate, one.PatientSex = '19610203', 'F'
    one.StudyDate = one.StudyTime = one.StudyID = one.AccessionNumber = ''
    one.ReferringPhysicianName = ''
    one.StudyInstanceUID, one.SeriesInstanceUID = f'{ROOT}.{number}.1', f'{ROOT}.{number}.2'
    one.FrameOfReferenceUID, one.SeriesNumber = f'{ROOT}.{number}.3', 1
    one.InstanceNumber = d + 1
    one.ImagePositionPatient = [f'{x:.9g}' for x in (lps @ (d, 0, 0, 1))[:3]]
    directions = (*(lps[:3, 2] / across), *(lps[:3, 1] / down))
    one.ImageOrientationPatient = [f'{x:.12f}' for x in directions]
    one.PixelSpacing, one.SliceThickness = [f'{down:.9g}', f'{across:.9g}'], 1
    one.Rows, one.Columns = voxels.shape[1:]
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, 'MONOCHROME2'
    one.BitsAllocated = one.BitsStored = 16
    one.HighBit, one.PixelRepresentation = 15, 1
    one.RescaleSlope, one.RescaleIntercept = 1, -1024
    one.PixelData = (voxels[d] + 1024).astype('<i2').tobytes()
    for name, value in changes.items():
      setattr(one, name, value)
    one.save_as(folder / f'{(d * 5 + 3) % 997:03d}.dcm', enforce_file_format=True)
    headers.append(one)
  return headers


def write_seg(path, headers, label, names):
  """Writes the classes of [D, H, W] by highdicom, the segments in another order than theirs."""
  import highdicom
  from pydicom.sr.codedict import codes

  order = [*range(1, len(names) + 1)][::-1]  # the class of each segment
  pixels = np.stack([label == k for k in order], axis=-1).astype(np.uint8)
  made = highdicom.seg.Segmentation(
    source_images=headers,
    pixel_array=pixels,
    segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
    segment_descriptions=[
      highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=names[k - 1],
        segmented_property_category=codes.cid7150.AnatomicalStructure,
        segmented_property_type=codes.cid7192.Liver,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
      )
      for number, k in enumerate(order, 1)
    ],
    series_instance_uid=f'{headers[0].SeriesInstanceUID}.7',
    series_number=7,
    sop_instance_uid=f'{headers[0].SeriesInstanceUID}.8',
    instance_number=1,
    manufacturer='none',
    manufacturer_model_name='none',
    software_versions='1',
    device_serial_number='1',
    specific_character_set='ISO_IR 192',
  )
  path.parent.mkdir(parents=True, exist_ok=True)
  made.save_as(path)


def write_rtstruct(path, headers, label, names, *, draw=None):
  """Writes the classes of [D, H, W] as contours, which `draw` makes of a class on a slice.

  They are the borders of all pixels in a row, a rectangle for each run of them.
  """
  first = headers[0]
  made = begin(RTSTRUCT, f'{first.SeriesInstanceUID}.9')
  for name in ('PatientName', 'PatientID', 'StudyInstanceUID'):
    setattr(made, name, first[name].value)
  made.Modality, made.SeriesInstanceUID = 'RTSTRUCT', f'{first.SeriesInstanceUID}.10'
  images = [
    item(ReferencedSOPClassUID=CT, ReferencedSOPInstanceUID=one.SOPInstanceUID) for one in headers
  ]
  series = item(SeriesInstanceUID=first.SeriesInstanceUID, ContourImageSequence=images)
  study = item(ReferencedSOPInstanceUID=first.StudyInstanceUID, RTReferencedSeriesSequence=[series])
  made.ReferencedFrameOfReferenceSequence = [
    item(FrameOfReferenceUID=first.FrameOfReferenceUID, RTReferencedStudySequence=[study])
  ]
  made.StructureSetLabel = 'none'
  made.StructureSetROISequence, made.ROIContourSequence = [], []
  for k, name in enumerate(names, 1):
    number = 40 - k  # not the number of the class
    made.StructureSetROISequence.append(
      item(ROINumber=number, ROIName=name, ReferencedFrameOfReferenceUID=first.FrameOfReferenceUID)
    )
    drawn = [
      contour_of(headers[d], points)
      for d in range(len(label))
      for points in (draw or rectangles)(label[d] == k)
    ]
    made.ROIContourSequence.append(item(ReferencedROINumber=number, ContourSequence=drawn))
  path.parent.mkdir(parents=True, exist_ok=True)
  made.save_as(path, enforce_file_format=True)


def contour_of(header, points, kind='CLOSED_PLANAR'):
  """A contour on a slice, through points (row, column)."""
  corner, directions = (
    np.array(header[name].value, float)
    for name in ('ImagePositionPatient', 'ImageOrientationPatient')
  )
  down, across = map(float, header.PixelSpacing)
  rows, columns = np.asarray(points, float).T[..., None]
  places = corner + columns * across * directions[:3] + rows * down * directions[3:]
  return item(
    ContourImageSequence=[
      item(ReferencedSOPClassUID=CT, ReferencedSOPInstanceUID=header.SOPInstanceUID)
    ],
    ContourGeometricType=kind,
    NumberOfContourPoints=len(places),
    ContourData=[f'{x:.6f}' for x in places.ravel()],
  )


def rectangles(inside):
  """The borders of each run of pixels within a row."""
  found = []
  for h, row in enumerate(inside):
    edges = np.flatnonzero(np.diff(np.pad(row.astype(int), 1)))
    for left, right in edges.reshape(-1, 2) - 0.5:
      found.append([(h - 0.5, left), (h - 0.5, right), (h + 0.5, right), (h + 0.5, left)])
  return found


def change(path, alter):
  """Alters a file in place."""
  made = pydicom.dcmread(path)
  alter(made)
  made.save_as(path)


def write_studies(folder, *, patients, classes):
  """Studies of phantoms, every second with a SEG, else an RTSTRUCT; the first patient has two.

  Returns voxels, label and affine by the name that each series gets.
  """
  made = {}
  for number in range(patients + 1):
    scan = phantom_folders.make_scan(number=number, seed=0)
    voxels = (np.clip(scan.image, 0, None) * 1000).astype(int) - 1000
    patient = max(number, 1)
    place = folder / f'study {number}' / ('a/b/c' if number % 3 else 'x')
    headers = write_series(place / 'ct', voxels, scan.affine, number=10 + number, patient=patient)
    write = write_rtstruct if number % 2 else write_seg
    write(place / 'truth' / 'mask.dcm', headers, scan.label, classes)
    name = f'p001_{number + 1}' if number < 2 else f'p{number:03d}'
    made[name] = voxels, scan.label, scan.affine
  return made
