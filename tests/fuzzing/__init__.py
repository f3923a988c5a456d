"""What fuzz_scans.py damages and how, one family of files a module."""
