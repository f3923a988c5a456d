"""A small search space, for tests of searches whose point is not what is searched."""

# Two or three candidates of each kind of edge, which compile in a third of the time of all 16.
FEW = (
  *('down_max_pool', 'down_conv_3x3', 'up_conv_3x3', 'up_sep_conv_3x3'),
  *('identity', 'se', 'conv_3x3'),
)
