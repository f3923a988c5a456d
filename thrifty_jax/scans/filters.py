"""Filters that images may pass on their way to the network, slice by slice."""

import numpy as np
from skimage import exposure


def equalise(plane: np.ndarray, *, clip_limit: float) -> np.ndarray:
  """Contrast-limited adaptive histogram equalisation (CLAHE) of one slice.

  Args:
    plane: Intensities in [0, 1], [H, W]. Their limits do not matter: darkest and brightest become
      0 and 1 first.
    clip_limit: From 0 to 1; higher gives more contrast. scikit-image has 0.01.

  Returns:
    [H, W], float32 in [0, 1]; a slice of one shade, which has no contrast, stays as it is.
  """
  if plane.min() == plane.max():
    return plane.astype(np.float32)
  return exposure.equalize_adapthist(plane, clip_limit=clip_limit).astype(np.float32)


def curvature_flow(plane: np.ndarray, *, iterations: int, time_step: float) -> np.ndarray:
  """A slice smoothed along its edges and not across them, [H, W] to [H, W], float32.

  Args:
    plane: Intensities, [H, W].
    iterations: Steps of the flow.
    time_step: Of each; above about 0.25 the flow is not stable.

  Source: ITK's CurvatureFlowImageFilter, after Sethian, "Level set methods" (1996).
  """
  import SimpleITK  # here: the other filters and most data sets do without ITK

  smoothed = SimpleITK.CurvatureFlow(
    SimpleITK.GetImageFromArray(plane.astype(np.float32)),
    timeStep=time_step,
    numberOfIterations=iterations,
  )
  return SimpleITK.GetArrayFromImage(smoothed)
