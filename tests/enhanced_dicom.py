"""Enhanced DICOM objects, of several frames, written by pydicom."""

from pydicom import Dataset, Sequence
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

ENHANCED = '1.2.840.10008.5.1.4.1.1.4.1'


def write(
  path,
  stored,
  *,
  frames=None,
  slopes=(1,),
  rescale=True,
  shared=(),
  drop=(),
  syntax=ExplicitVRLittleEndian,
  has_lengths=True,
):
  """An enhanced MR image, its frames in the order of `frames`, each 2.5 mm on.

  `shared` and `drop` are functional groups that all frames share, and that are absent; without
  lengths, sequences and items end by a mark.
  """

  def item(**tags):
    made = Dataset()
    for keyword, value in tags.items():
      setattr(made, keyword, value)
    return Sequence([made])

  def groups(d, k):
    made = {
      'PlanePositionSequence': item(ImagePositionPatient=[-20.5, 11.25, 300 + 2.5 * int(d)]),
      'PlaneOrientationSequence': item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
      'PixelMeasuresSequence': item(PixelSpacing=[3.5, 3.0], SpacingBetweenSlices=0),
    }
    if rescale:
      slope = slopes[k % len(slopes)]
      made['PixelValueTransformationSequence'] = item(
        RescaleSlope=slope, RescaleIntercept=-3, RescaleType='US'
      )
    return {name: value for name, value in made.items() if name not in drop}

  frames = list(range(len(stored)) if frames is None else frames)
  dataset = Dataset()
  dataset.SOPClassUID, dataset.SOPInstanceUID = ENHANCED, '1.2.3.4'
  dataset.ImageType = ['ORIGINAL', 'PRIMARY', 'VOLUME', 'NONE']
  dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, 'MONOCHROME2'
  dataset.Rows, dataset.Columns = stored.shape[1:]
  dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
  dataset.PixelRepresentation, dataset.NumberOfFrames = 0, len(frames)
  of_all = {name: value for name, value in groups(0, 0).items() if name in shared}
  dataset.SharedFunctionalGroupsSequence = Sequence([Dataset()])
  dataset.PerFrameFunctionalGroupsSequence = Sequence([Dataset() for _ in frames])
  for name, value in of_all.items():
    setattr(dataset.SharedFunctionalGroupsSequence[0], name, value)
  for k, (d, one) in enumerate(zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True)):
    for name, value in groups(d, k).items():
      if name not in shared:
        setattr(one, name, value)
  dataset.PixelData = stored[frames].tobytes()
  dataset.file_meta = FileMetaDataset()
  dataset.file_meta.TransferSyntaxUID = syntax
  if not has_lengths:
    _drop_lengths(dataset)
  dataset.save_as(path, enforce_file_format=True)
  return path


def _drop_lengths(dataset):
  for one in dataset:
    if one.VR == 'SQ':
      one.is_undefined_length = True
      for item in one.value:
        item.is_undefined_length_sequence_item = True
        _drop_lengths(item)
