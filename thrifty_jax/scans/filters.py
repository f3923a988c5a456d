"""Optional filters of image slices before the network."""

import numpy as np
from skimage import exposure


def equalise(plane: np.ndarray, *, clip_limit: float) -> np.ndarray:
  """Contrast-limited adaptive histogram equalisation (CLAHE) of one slice.

  Args:
    plane: Intensities in [0, 1], [H, W]; the darkest and brightest become 0 and 1 first.
    clip_limit: Limit in [0, 1]; higher gives more contrast. scikit-image's default is 0.01.

  Returns:
    Array [H, W], float32 in [0, 1]; a constant slice is returned unchanged.
  """
  if plane.min() == plane.max():
    return plane.astype(np.float32)
  return exposure.equalize_adapthist(plane, clip_limit=clip_limit).astype(np.float32)


def curvature_flow(plane: np.ndarray, *, iterations: int, time_step: float) -> np.ndarray:
  """Returns a slice smoothed along its edges and not across them, [H, W], float32.

  Args:
    plane: Intensities, [H, W].
    iterations: Number of steps of the flow.
    time_step: Length of a step; above about 0.25 the flow is unstable.

  Source: ITK's CurvatureFlowImageFilter, after Sethian, "Level set methods" (1996).
  """
  import SimpleITK  # here: the other filters and most data sets do not need ITK

  smoothed = SimpleITK.CurvatureFlow(
    SimpleITK.GetImageFromArray(plane.astype(np.float32)),
    timeStep=time_step,
    numberOfIterations=iterations,
  )
  return SimpleITK.GetArrayFromImage(smoothed)
