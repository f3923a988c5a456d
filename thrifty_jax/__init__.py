"""Small segmentation networks for medical scans, found by architecture search in JAX."""

__version__ = '0.1.0'
RESEARCH_USE = 'Research use only, not a medical device.'
