"""Genotypes as SVG."""
